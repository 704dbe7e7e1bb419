// Decode attention: one query token of each sequence over what its heads keep.
//
// The slots [sink | ring] of a head are one contiguous segment and all of them are visible, so
// there is no mask. A block takes one item: a chunk of one head's slots and up to eight query heads
// that share it, which read every key and value once. Its four warps take tiles of 16 slots in
// turn, each through a pipeline of its own, so that nothing waits for a block barrier while data
// streams. The matrix tile has 16 query rows: eight hold the queries rounded to T, eight what
// rounding lost, so that the float32 queries keep twice the bits for free; probabilities are split
// the same way. The last block of a head to finish merges its chunks in order of chunk: which block
// that is changes nothing in the result.
#include "cuda/attention/attention.h"
#include "cuda/attention/decode_merge.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/mma.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/softmax_state.cuh"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace decode {
namespace {

constexpr int kTile = 16;  // slots

template <int D>
struct Shape {
  using Layout = TileLayout<D>;
  // Two blocks an SM, each with up to 96 KiB of stages.
  static constexpr int kStages = D == 128 ? 3 : D == 64 ? 6 : 4;
  static constexpr int kTileBytes = kTile * Layout::kRowBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys, values
  static constexpr int kWarpBytes = kStages * kStageBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes;
  static_assert(BlockShares<D>::kBytes <= kSharedBytes && ChunkMerge<D>::kBytes <= kSharedBytes);
};

// Fragments of the queries, high and low parts in rows g and g + 8.
template <typename T, int D>
__device__ void load_queries(const float* queries, int count,
                             std::uint32_t (&fragments)[D / 16][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int query = lane / 4;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 q = {0.0f, 0.0f};
      if (query < count) {
        q = *reinterpret_cast<const float2*>(queries + query * D + step * 16 + half * 8 +
                                             (lane % 4) * 2);
      }
      float high[2], low[2];
      split<T>(q.x, high[0], low[0]);
      split<T>(q.y, high[1], low[1]);
      fragments[step][2 * half] = pack<T>(high[0], high[1]);
      fragments[step][2 * half + 1] = pack<T>(low[0], low[1]);
    }
  }
}

// One warp's keys and values on their way from global memory.
template <typename T, int D>
class Pipeline {
  using S = Shape<D>;

 public:
  // Tiles warp, warp + kWarps, ... of slots [begin, end).
  __device__ Pipeline(std::byte* shared, const T* keys, const T* values, int begin, int end)
      : keys_(keys), values_(values), begin_(begin), end_(end) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    stages_ = shared_address(shared) + static_cast<std::uint32_t>(warp * S::kWarpBytes);
    next_ = begin + warp * kTile;
#pragma unroll
    for (int stage = 0; stage < S::kStages - 1; ++stage) fetch();
  }

  // Waits for the next tile and starts a further one; returns its address.
  __device__ std::uint32_t advance() {
    wait_copies<S::kStages - 2>();
    __syncwarp();
    fetch();
    const std::uint32_t tile = stages_ + static_cast<std::uint32_t>(read_ * S::kStageBytes);
    read_ = read_ + 1 == S::kStages ? 0 : read_ + 1;
    return tile;
  }

 private:
  __device__ void fetch() {
    using Layout = typename S::Layout;
    if (next_ < end_) {
      const int lane = static_cast<int>(threadIdx.x) % 32;
      const std::uint32_t target = stages_ + static_cast<std::uint32_t>(write_ * S::kStageBytes);
      const std::int64_t source = static_cast<std::int64_t>(next_) * D;
#pragma unroll
      for (int i = 0; i < kTile * Layout::kRowChunks / 32; ++i) {
        const int index = lane + 32 * i;
        const int row = index / Layout::kRowChunks;
        const int chunk = index % Layout::kRowChunks;
        const bool valid = next_ + row < end_;
        const std::int64_t element = valid ? source + index * 8 : source;
        const std::uint32_t offset = Layout::offset(row, chunk);
        copy_async_16(target + offset, keys_ + element, valid);
        copy_async_16(target + S::kTileBytes + offset, values_ + element, valid);
      }
    }
    commit_copies();  // also where there is nothing left, so that the count of groups stays right
    next_ += kWarps * kTile;
    write_ = write_ + 1 == S::kStages ? 0 : write_ + 1;
  }

  const T* keys_;
  const T* values_;
  int begin_;
  int end_;
  int next_ = 0;
  int read_ = 0;
  int write_ = 0;
  std::uint32_t stages_ = 0;
};

// One warp's share: state of query lane / 4 (its sum over this lane's slots only until finish),
// sums of values transposed (dim, query) as fragments.
template <typename T, int D>
struct WarpShare {
  SoftmaxState state;
  float sums[D / 16][4] = {};

  // A tile of keys and values at `tile`, of which the first `valid` slots count.
  __device__ void take(const std::uint32_t (&queries)[D / 16][4], std::uint32_t tile, int valid) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const TileCursor<D> cursor((lane / 16) * 8 + lane % 8, lane / 8 % 2);

    float scores[2][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      std::uint32_t keys[4];
      load_matrices(keys, cursor.address(tile, 0, step));
      mma<T>(scores[0], queries[step], keys[0], keys[1]);
      mma<T>(scores[1], queries[step], keys[2], keys[3]);
    }
    float p[2][2];
    const float factor = exponentials(scores, valid, p);

    const float factor0 = __shfl_sync(kAllLanes, factor, (lane % 4) * 8);
    const float factor1 = __shfl_sync(kAllLanes, factor, (lane % 4) * 8 + 4);
    std::uint32_t high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float h[2], l[2];
      split<T>(p[i][0], h[0], l[0]);
      split<T>(p[i][1], h[1], l[1]);
      high[i] = pack<T>(h[0], h[1]);
      low[i] = pack<T>(l[0], l[1]);
    }
    const std::uint32_t values = tile + Shape<D>::kTileBytes;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      std::uint32_t v[4];
      load_matrices_transposed(v, cursor.address(values, 0, step));
      sums[step][0] *= factor0;
      sums[step][1] *= factor1;
      sums[step][2] *= factor0;
      sums[step][3] *= factor1;
      mma<T>(sums[step], v, high[0], high[1]);
      mma<T>(sums[step], v, low[0], low[1]);
    }
  }

  __device__ void finish() { state.sum = sum_lanes<4>(state.sum); }

 private:
  // p = exp2(score - max) of this lane's four slots; returns the factor for what was summed before.
  __device__ float exponentials(const float (&scores)[2][4], int valid, float (&p)[2][2]) {
    const int slot = (static_cast<int>(threadIdx.x) % 4) * 2;
    const float scale = kLog2E * rsqrtf(static_cast<float>(D));
    float best = -kInfinity;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        // High and low part of the query.
        const float score = (scores[i][j] + scores[i][j + 2]) * scale;
        p[i][j] = i * 8 + slot + j < valid ? score : -kInfinity;
        best = fmaxf(best, p[i][j]);
      }
    }
    const float factor = state.raise(max_lanes<4>(best));
    const float shift = state.shift();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        p[i][j] = exp2_approx(p[i][j] - shift);
        state.sum += p[i][j];
      }
    }
    return factor;
  }
};

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 2) decode_attention(DecodeArgs args) {
  extern __shared__ __align__(128) std::byte shared[];
  let_next_start();
  const DecodeItem item = args.items[blockIdx.x];  // the host's, as are the positions
  int end = item.end;
  if (item.filled == 0) end = min(end, args.positions[item.row] + 1);
  const T* keys = reinterpret_cast<const T*>(item.keys);
  const T* values = keys + static_cast<std::int64_t>(item.span) * D;
  const std::int64_t row = item.row;
  const float* queries =
      args.qkv + row * args.dims.qkv_width() + static_cast<std::int64_t>(item.query) * D;
  float* out = args.out + (row * args.dims.query_heads + item.query) * D;

  wait_for_inputs();
  Pipeline<T, D> pipeline(shared, keys, values, item.begin, end);
  std::uint32_t fragments[D / 16][4];
  load_queries<T, D>(queries, item.queries, fragments);
  WarpShare<T, D> share;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int slot = item.begin + warp * kTile; slot < end; slot += kWarps * kTile) {
    const std::uint32_t tile = pipeline.advance();
    share.take(fragments, tile, end - slot);
  }
  share.finish();
  wait_copies<0>();
  __syncthreads();  // the stages become the block's shares

  BlockShares<D> shares(shared);
  shares.store(share);
  __syncthreads();
  const std::int64_t partial = item.first_partial + item.chunk;
  for (int index = static_cast<int>(threadIdx.x); index < item.queries * D; index += kThreads) {
    const int query = index / D;
    const int dim = index % D;
    float sum;
    const SoftmaxState whole = shares.merge(query, dim, sum);
    if (item.chunks == 1) {
      out[index] = sum / whole.sum;
      continue;
    }
    __stcg(args.partial_sums + (partial * kQueries + query) * D + dim, sum);
    if (dim == 0) {
      __stcg(reinterpret_cast<float2*>(args.partial_states) + partial * kQueries + query,
             float2{whole.max, whole.sum});
    }
  }
  if (item.chunks == 1) return;
  if (arrive_last(args.counters + item.first_partial, item.chunks)) {
    ChunkMerge<D>(args, item, shared).run(out);
  }
}

}  // namespace
}  // namespace decode

void launch_decode_attention(const DecodeArgs& args, cudaStream_t stream) {
  if (args.num_items == 0) return;
  dispatch_attention(args.dtype, args.dims.head_dim, [&](auto tag, auto dim) {
    using T = typename decltype(tag)::Type;
    constexpr int kDim = decltype(dim)::value;
    const auto kernel = decode::decode_attention<T, kDim>;
    constexpr int kShared = decode::Shape<kDim>::kSharedBytes;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "decode attention: shared memory");
    launch("decode attention", kernel, dim3(static_cast<unsigned>(args.num_items)),
           decode::kThreads, kShared, stream, args);
  });
}

void set_decode_attention(cudaGraphExec_t graph, cudaGraphNode_t node, DecodeArgs args) {
  dispatch_attention(args.dtype, args.dims.head_dim, [&](auto tag, auto dim) {
    using T = typename decltype(tag)::Type;
    constexpr int kDim = decltype(dim)::value;
    void* arguments[] = {&args};
    cudaKernelNodeParams launch = {};
    launch.func = reinterpret_cast<void*>(decode::decode_attention<T, kDim>);
    launch.gridDim = dim3(static_cast<unsigned>(args.num_items));
    launch.blockDim = dim3(decode::kThreads);
    launch.sharedMemBytes = decode::Shape<kDim>::kSharedBytes;
    launch.kernelParams = arguments;
    check(cudaGraphExecKernelNodeSetParams(graph, node, &launch), "decode attention: graph");
  });
}

std::int32_t decode_slots(DType dtype, std::int32_t head_dim) {
  return dispatch_attention(dtype, head_dim, [](auto tag, auto dim) {
    using T = typename decltype(tag)::Type;
    constexpr int kDim = decltype(dim)::value;
    const auto kernel = decode::decode_attention<T, kDim>;
    constexpr int kShared = decode::Shape<kDim>::kSharedBytes;
    int blocks = 0;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "decode attention: shared memory");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, decode::kThreads, kShared),
          "decode attention: occupancy");
    return device_attribute(cudaDevAttrMultiProcessorCount) * blocks;
  });
}

}  // namespace moa_rt::cuda
