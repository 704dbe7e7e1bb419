// Prefill attention: a slice's query rows over the slots filled before the step and the slice's own
// keys, under the token-exact mask of span.h. Portable path, sm_80 and later.
//
// A block takes one tile of query tokens with all query heads of their KV head (rows are (token,
// head) pairs), and walks the keys that some query of the tile sees: at most eight ranges of
// consecutive positions. Keys outside are never addressed, so a tile without a visible pair is
// neither loaded nor waited for. Masks are computed only where a key tile crosses an edge.
#include "cuda/attention/attention.h"
#include "cuda/attention/prefill_hopper.h"
#include "cuda/attention/prefill_tile.cuh"
#include "cuda/attention/visible_ranges.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/mma.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/softmax_state.cuh"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = kPrefillTileRows;
constexpr int kWarpRows = kRows / kWarps;
constexpr int kBlocksOf16 = kWarpRows / 16;  // row blocks of a warp
constexpr int kKeys = 64;                    // keys of a tile

template <int D>
struct Shape {
  using Layout = TileLayout<D>;
  static constexpr int kQueryBytes = kRows * Layout::kRowBytes;
  static constexpr int kTileBytes = kKeys * Layout::kRowBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kStages = 2;
  static constexpr int kSharedBytes = kQueryBytes + kStages * kStageBytes;
};

template <typename T, int D>
__device__ void load_query_tile(std::byte* shared, const T* queries, std::int64_t row_stride,
                                RowMap map) {
  using Layout = TileLayout<D>;
  for (int index = static_cast<int>(threadIdx.x); index < kRows * Layout::kRowChunks;
       index += kThreads) {
    const int row = index / Layout::kRowChunks;
    const int chunk = index % Layout::kRowChunks;
    uint4 packed = {0, 0, 0, 0};
    if (map.valid(row)) {
      packed = *reinterpret_cast<const uint4*>(queries + map.token(row) * row_stride +
                                               (row % map.group) * D + chunk * 8);
    }
    *reinterpret_cast<uint4*>(shared + Layout::offset(row, chunk)) = packed;
  }
}

// Keys and values of a tile; rows past `count` become zeros.
template <typename T, int D>
__device__ void load_key_tile(std::uint32_t stage, const T* keys, const T* values, int count) {
  using Layout = TileLayout<D>;
#pragma unroll
  for (int i = 0; i < kKeys * Layout::kRowChunks / kThreads; ++i) {
    const int index = static_cast<int>(threadIdx.x) + kThreads * i;
    const int row = index / Layout::kRowChunks;
    const bool valid = row < count;
    const int element = valid ? index * 8 : 0;
    const std::uint32_t offset = Layout::offset(row, index % Layout::kRowChunks);
    copy_async_16(stage + offset, keys + element, valid);
    copy_async_16(stage + Shape<D>::kTileBytes + offset, values + element, valid);
  }
}

// One warp's rows: states and sums of values as fragments. Slot [block][half] is row
// warp * 32 + block * 16 + half * 8 + lane / 4.
template <typename T, int D>
struct WarpRows {
  SoftmaxState state[kBlocksOf16][2];
  float sums[kBlocksOf16][D / 8][4] = {};
  int position[kBlocksOf16][2];  // of the query
  int low;                       // positions of the warp's first and last query
  int high;

  __device__ WarpRows(RowMap map, int first_position) {
    const int base = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
    const int last = map.tokens - 1;
#pragma unroll
    for (int block = 0; block < kBlocksOf16; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = base + block * 16 + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
        position[block][half] = first_position + min(map.token(row), last);
      }
    }
    low = first_position + min(map.token(base), last);
    high = first_position + min(map.token(base + kWarpRows - 1), last);
  }

  __device__ void take(std::uint32_t query_tile, std::uint32_t stage, const KeyTile<kKeys>& tile) {
    if (tile.none_visible(low, high)) return;
    float scores[kBlocksOf16][kKeys / 8][4] = {};
    multiply_keys(query_tile, stage, scores);
    if (!tile.all_visible(low, high)) mask(tile, scores);
    exponentials(scores);
    multiply_values(stage + Shape<D>::kTileBytes, scores);
  }

  __device__ void finish() {
#pragma unroll
    for (int block = 0; block < kBlocksOf16; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        state[block][half].sum = sum_lanes<4>(state[block][half].sum);
      }
    }
  }

 private:
  using Scores = float[kBlocksOf16][kKeys / 8][4];

  __device__ void multiply_keys(std::uint32_t query_tile, std::uint32_t keys, Scores& scores) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int base = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
    const TileCursor<D> query_cursor(base + (lane / 8 % 2) * 8 + lane % 8, lane / 16);
    const TileCursor<D> key_cursor((lane / 16) * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      std::uint32_t q[kBlocksOf16][4];
#pragma unroll
      for (int block = 0; block < kBlocksOf16; ++block) {
        load_matrices(q[block], query_cursor.address(query_tile, block, step));
      }
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        std::uint32_t k[4];
        load_matrices(k, key_cursor.address(keys, pair, step));
#pragma unroll
        for (int block = 0; block < kBlocksOf16; ++block) {
          mma<T>(scores[block][2 * pair], q[block], k[0], k[1]);
          mma<T>(scores[block][2 * pair + 1], q[block], k[2], k[3]);
        }
      }
    }
  }

  __device__ void mask(const KeyTile<kKeys>& tile, Scores& scores) const {
    const int column = (static_cast<int>(threadIdx.x) % 4) * 2;
#pragma unroll
    for (int block = 0; block < kBlocksOf16; ++block) {
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (!tile.visible(position[block][j / 2], i * 8 + column + j % 2)) {
            scores[block][i][j] = -kInfinity;
          }
        }
      }
    }
  }

  // Scores become exp2((score - max) * scale); sums so far are brought to the new maximum.
  __device__ void exponentials(Scores& scores) {
    const float scale = kLog2E * rsqrtf(static_cast<float>(D));
#pragma unroll
    for (int block = 0; block < kBlocksOf16; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float best = -kInfinity;
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i) {
          best = fmaxf(best, fmaxf(scores[block][i][2 * half], scores[block][i][2 * half + 1]));
        }
        SoftmaxState& s = state[block][half];
        const float factor = s.raise(max_lanes<4>(best) * scale);
        const float shift = s.shift();
#pragma unroll
        for (int i = 0; i < kKeys / 8; ++i) {
#pragma unroll
          for (int j = 2 * half; j < 2 * half + 2; ++j) {
            scores[block][i][j] = exp2_approx(fmaf(scores[block][i][j], scale, -shift));
            s.sum += scores[block][i][j];
          }
        }
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
          sums[block][i][2 * half] *= factor;
          sums[block][i][2 * half + 1] *= factor;
        }
      }
    }
  }

  __device__ void multiply_values(std::uint32_t values, const Scores& p) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const TileCursor<D> cursor((lane / 8 % 2) * 8 + lane % 8, lane / 16);
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      std::uint32_t a[kBlocksOf16][4];
#pragma unroll
      for (int block = 0; block < kBlocksOf16; ++block) {
        a[block][0] = pack<T>(p[block][2 * step][0], p[block][2 * step][1]);
        a[block][1] = pack<T>(p[block][2 * step][2], p[block][2 * step][3]);
        a[block][2] = pack<T>(p[block][2 * step + 1][0], p[block][2 * step + 1][1]);
        a[block][3] = pack<T>(p[block][2 * step + 1][2], p[block][2 * step + 1][3]);
      }
#pragma unroll
      for (int pair = 0; pair < D / 16; ++pair) {
        std::uint32_t v[4];
        load_matrices_transposed(v, cursor.address(values, step, pair));
#pragma unroll
        for (int block = 0; block < kBlocksOf16; ++block) {
          mma<T>(sums[block][2 * pair], a[block], v[0], v[1]);
          mma<T>(sums[block][2 * pair + 1], a[block], v[2], v[3]);
        }
      }
    }
  }
};

template <typename T, int D>
__device__ void store_rows(const WarpRows<T, D>& rows, RowMap map, float* out,
                           std::int64_t row_stride) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int base = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
#pragma unroll
  for (int block = 0; block < kBlocksOf16; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = base + block * 16 + half * 8 + lane / 4;
      if (!map.valid(row)) continue;
      const float factor = 1.0f / rows.state[block][half].sum;
      float* target = out + map.token(row) * row_stride + (row % map.group) * D + (lane % 4) * 2;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        *reinterpret_cast<float2*>(target + i * 8) = float2{
            rows.sums[block][i][2 * half] * factor, rows.sums[block][i][2 * half + 1] * factor};
      }
    }
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 2) prefill_attention(PrefillArgs args) {
  extern __shared__ __align__(128) std::byte shared[];
  __shared__ VisibleRanges<T> ranges;
  const PrefillItem item = args.items[blockIdx.x];
  const Segment segment = args.segments[item.segment];
  const RowMap map{args.dims.group(), item.tokens};
  const int first_position = segment.position + item.token;
  const std::int64_t row = segment.row + item.token;
  const std::int64_t query_column = static_cast<std::int64_t>(item.head) * map.group * D;

  if (threadIdx.x == 0) {
    const std::int64_t chunk = (static_cast<std::int64_t>(item.head) * args.rows + segment.row) * D;
    ranges.find(segment, D, static_cast<const T*>(args.chunk.keys) + chunk,
                static_cast<const T*>(args.chunk.values) + chunk, first_position,
                first_position + item.tokens - 1);
  }
  const std::int64_t out_width = static_cast<std::int64_t>(args.dims.query_heads) * D;
  const std::int64_t first_query = row * out_width + query_column;
  load_query_tile<T, D>(shared, static_cast<const T*>(args.chunk.queries) + first_query, out_width,
                        map);
  __syncthreads();

  const std::uint32_t query_tile = shared_address(shared);
  const std::uint32_t stages = query_tile + Shape<D>::kQueryBytes;
  const auto fetch = [&](const RangeWalk& walk, int stage) {
    if (walk.range < ranges.size) {
      const auto& range = ranges.range[walk.range];
      const std::int64_t offset = static_cast<std::int64_t>(walk.begin) * D;
      load_key_tile<T, D>(stages + static_cast<std::uint32_t>(stage * Shape<D>::kStageBytes),
                          range.keys + offset, range.values + offset, range.count - walk.begin);
    }
    commit_copies();
  };

  WarpRows<T, D> rows(map, first_position);
  RangeWalk loading;
  fetch(loading, 0);
  int stage = 0;
  for (RangeWalk walk; walk.range < ranges.size; walk.next(ranges, kKeys)) {
    loading.next(ranges, kKeys);
    fetch(loading, stage ^ 1);
    wait_copies<1>();
    __syncthreads();
    const auto& range = ranges.range[walk.range];
    const KeyTile<kKeys> tile{range.position + walk.begin, min(range.count - walk.begin, kKeys),
                              segment.sink, segment.window};
    rows.take(query_tile, stages + static_cast<std::uint32_t>(stage * Shape<D>::kStageBytes), tile);
    __syncthreads();
    stage ^= 1;
  }
  wait_copies<0>();
  rows.finish();
  store_rows(rows, map, args.out + first_query, out_width);
}

}  // namespace

void launch_prefill_attention(const PrefillArgs& args, cudaStream_t stream) {
  if (args.num_items == 0 || launch_prefill_hopper(args, stream)) return;
  dispatch_attention(args.dtype, args.dims.head_dim, [&](auto tag, auto dim) {
    using T = typename decltype(tag)::Type;
    constexpr int kDim = decltype(dim)::value;
    const auto kernel = prefill_attention<T, kDim>;
    constexpr int kShared = Shape<kDim>::kSharedBytes;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "prefill attention: shared memory");
    launch_in_order("prefill attention", kernel, dim3(static_cast<unsigned>(args.num_items)),
                    kThreads, kShared, stream, args);
  });
}

}  // namespace moa_rt::cuda
