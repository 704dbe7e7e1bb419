// Prefill attention on Hopper: the same work and the same masks as prefill.cu, with warpgroup
// products that read keys and values straight from shared memory.
//
// One warpgroup fetches, two multiply, 64 query rows each; they meet only at barriers in shared
// memory, so that one's softmax runs beside the other's products. Key tiles are copied row by row
// rather than by tensor maps, because the ranges a head sees start anywhere in its ring.
#include "cuda/attention/attention.h"
#include "cuda/attention/prefill_hopper.h"
#include "cuda/attention/prefill_tile.cuh"
#include "cuda/attention/visible_ranges.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/hopper.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/softmax_state.cuh"
#include "cuda/runtime/check.h"

namespace moa_rt::cuda {
namespace hopper {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kThreads = 3 * kGroupThreads;  // fetches, multiplies, multiplies
constexpr int kRows = kPrefillTileRows;
constexpr int kKeys = 128;  // of a tile
constexpr int kStages = 2;
constexpr int kFetchRegisters = 40;
constexpr int kProductRegisters = 232;

// A tile of 128 rows: for every 64 elements of D, rows of 128 bytes.
template <int D>
struct Shape {
  static_assert(D == 64 || D == 128);
  static constexpr int kHalfBytes = 128 * 128;
  static constexpr int kTileBytes = D / 64 * kHalfBytes;
  static constexpr int kRowChunks = D / 8;
  static constexpr int kAlignment = 1024;  // of the exchange pattern
  static constexpr int kSharedBytes = (1 + 2 * kStages) * kTileBytes + kAlignment;

  __device__ static std::uint32_t offset(int row, int chunk) {
    return static_cast<std::uint32_t>(chunk / 8 * kHalfBytes + row * 128 +
                                      (chunk % 8 ^ (row & 7)) * 16);
  }
};

struct Barriers {
  std::uint64_t full_keys[kStages];
  std::uint64_t full_values[kStages];
  std::uint64_t empty_keys[kStages];
  std::uint64_t empty_values[kStages];

  __device__ void init() {
    constexpr int kProductWarps = 8;
    for (int stage = 0; stage < kStages; ++stage) {
      init_barrier(shared_address(&full_keys[stage]), kGroupThreads);
      init_barrier(shared_address(&full_values[stage]), kGroupThreads);
      init_barrier(shared_address(&empty_keys[stage]), kProductWarps);
      init_barrier(shared_address(&empty_values[stage]), kProductWarps);
    }
  }
};

// Position in the ring of stages.
struct Turn {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void next() {
    stage = stage + 1 == kStages ? 0 : stage + 1;
    if (stage == 0) parity ^= 1;
  }
};

template <int D>
struct Tiles {
  std::uint32_t base;  // queries, then keys and values of each stage
  __device__ std::uint32_t queries() const { return base; }
  __device__ std::uint32_t keys(int stage) const {
    return base + static_cast<std::uint32_t>((1 + 2 * stage) * Shape<D>::kTileBytes);
  }
  __device__ std::uint32_t values(int stage) const {
    return keys(stage) + static_cast<std::uint32_t>(Shape<D>::kTileBytes);
  }
};

template <typename T, int D>
__device__ void load_queries(std::byte* tile, const float* queries, std::int64_t row_stride,
                             RowMap map) {
  using S = Shape<D>;
  for (int index = static_cast<int>(threadIdx.x); index < kRows * S::kRowChunks;
       index += kThreads) {
    const int row = index / S::kRowChunks;
    const int chunk = index % S::kRowChunks;
    uint4 packed = {0, 0, 0, 0};
    if (map.valid(row)) {
      const float* source =
          queries + map.token(row) * row_stride + (row % map.group) * D + chunk * 8;
      const float4 a = *reinterpret_cast<const float4*>(source);
      const float4 b = *reinterpret_cast<const float4*>(source + 4);
      packed = {pack<T>(a.x, a.y), pack<T>(a.z, a.w), pack<T>(b.x, b.y), pack<T>(b.z, b.w)};
    }
    *reinterpret_cast<uint4*>(tile + S::offset(row, chunk)) = packed;
  }
  fence_matrix_reads();
}

// The fetching warpgroup.
template <typename T, int D>
__device__ void fetch_all(const VisibleRanges<T>& ranges, Barriers& barriers, Tiles<D> tiles) {
  using S = Shape<D>;
  constexpr int kRowStep = kGroupThreads / S::kRowChunks;  // a multiple of 8
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = thread / S::kRowChunks;
  const int chunk = thread % S::kRowChunks;
  const std::uint32_t first_offset = S::offset(first_row, chunk);
  const auto fetch = [&](std::uint32_t tile, const T* source, int count) {
    const T* from = source + static_cast<std::int64_t>(first_row) * D + chunk * 8;
#pragma unroll 4
    for (int i = 0; i < kKeys / kRowStep; ++i) {
      const bool valid = first_row + i * kRowStep < count;
      copy_async_16(tile + first_offset + static_cast<std::uint32_t>(i * kRowStep * 128),
                    valid ? from + i * kRowStep * D : source, valid);
    }
    commit_copies();
  };
  // Everything but the latest copy has landed.
  const auto hand_over = [&](std::uint64_t& barrier) {
    wait_copies<1>();
    fence_matrix_reads();
    arrive(shared_address(&barrier));
  };

  Turn turn;
  int last_stage = -1;
  for (RangeWalk walk; walk.range < ranges.size; walk.next(ranges, kKeys)) {
    const auto& range = ranges.range[walk.range];
    const std::int64_t offset = static_cast<std::int64_t>(walk.begin) * D;
    const int count = range.count - walk.begin;
    wait_barrier(shared_address(&barriers.empty_keys[turn.stage]), turn.parity ^ 1);
    fetch(tiles.keys(turn.stage), range.keys + offset, count);
    if (last_stage >= 0) hand_over(barriers.full_values[last_stage]);
    wait_barrier(shared_address(&barriers.empty_values[turn.stage]), turn.parity ^ 1);
    fetch(tiles.values(turn.stage), range.values + offset, count);
    hand_over(barriers.full_keys[turn.stage]);
    last_stage = turn.stage;
    turn.next();
  }
  wait_copies<0>();
  fence_matrix_reads();
  arrive(shared_address(&barriers.full_values[last_stage]));
}

// A multiplying warpgroup's 64 rows; half h of this lane is row base + 8 h.
template <typename T, int D>
struct GroupRows {
  static constexpr int kScores = kKeys / 2;  // accumulators of a thread
  static constexpr int kSums = D / 2;

  SoftmaxState state[2];
  float sums[kSums] = {};
  int row[2];
  int position[2];
  int low;  // positions of the group's first and last query
  int high;

  __device__ GroupRows(RowMap map, int first_position, int group) {
    const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
    const int last = map.tokens - 1;
    for (int half = 0; half < 2; ++half) {
      row[half] = group * 64 + thread / 32 * 16 + thread % 32 / 4 + half * 8;
      position[half] = first_position + min(map.token(row[half]), last);
    }
    low = first_position + min(map.token(group * 64), last);
    high = first_position + min(map.token(group * 64 + 63), last);
  }

  __device__ void multiply_keys(std::uint32_t queries, std::uint32_t keys,
                                float (&scores)[kScores]) {
    pin(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const auto at = static_cast<std::uint32_t>(step / 4 * Shape<D>::kHalfBytes + step % 4 * 32);
      product_128<T>(scores, matrix_operand(queries + at, 16), matrix_operand(keys + at, 16),
                     step > 0);
    }
    commit_products();
    wait_products<0>();
    pin(scores);
  }

  __device__ void mask(const KeyTile<kKeys>& tile, float (&scores)[kScores]) const {
    const int column = (static_cast<int>(threadIdx.x) % 4) * 2;
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      if (!tile.visible(position[i / 2 % 2], i / 4 * 8 + column + i % 2)) scores[i] = -kInfinity;
    }
  }

  // Scores become exp2((score - max) * scale); sums so far are brought to the new maximum.
  __device__ void exponentials(float (&scores)[kScores]) {
    const float scale = kLog2E * rsqrtf(static_cast<float>(D));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = -kInfinity;
#pragma unroll
      for (int i = 2 * half; i < kScores; i += 4) {
        best = fmaxf(best, fmaxf(scores[i], scores[i + 1]));
      }
      const float factor = state[half].raise(max_lanes<4>(best) * scale);
      const float shift = state[half].shift();
      float sum = 0.0f;
#pragma unroll
      for (int i = 2 * half; i < kScores; i += 4) {
        scores[i] = exp2_approx(fmaf(scores[i], scale, -shift));
        scores[i + 1] = exp2_approx(fmaf(scores[i + 1], scale, -shift));
        sum += scores[i] + scores[i + 1];
      }
      state[half].sum += sum;
#pragma unroll
      for (int i = 2 * half; i < kSums; i += 4) {
        sums[i] *= factor;
        sums[i + 1] *= factor;
      }
    }
  }

  __device__ void multiply_values(std::uint32_t values, const std::uint32_t (&p)[kKeys / 16][4]) {
    pin(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      product_transposed<T>(sums, p[step],
                            matrix_operand(values + static_cast<std::uint32_t>(step * 16 * 128),
                                           Shape<D>::kHalfBytes));
    }
    commit_products();
    wait_products<0>();
    pin(sums);
  }

  __device__ void store(RowMap map, float* out, std::int64_t row_stride) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = 1.0f / sum_lanes<4>(state[half].sum);
      if (!map.valid(row[half])) continue;
      float* target = out + map.token(row[half]) * row_stride + (row[half] % map.group) * D +
                      (threadIdx.x % 4) * 2;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        *reinterpret_cast<float2*>(target + i * 8) =
            float2{sums[4 * i + 2 * half] * factor, sums[4 * i + 2 * half + 1] * factor};
      }
    }
  }
};

// A multiplying warpgroup.
template <typename T, int D>
__device__ void multiply_all(const VisibleRanges<T>& ranges, Barriers& barriers, Tiles<D> tiles,
                             GroupRows<T, D>& rows, int group, HeadSpan span) {
  const std::uint32_t queries = tiles.queries() + static_cast<std::uint32_t>(group * 64 * 128);
  const auto leave = [](std::uint64_t& barrier) {
    if (threadIdx.x % 32 == 0) arrive(shared_address(&barrier));
  };
  Turn turn;
  for (RangeWalk walk; walk.range < ranges.size; walk.next(ranges, kKeys), turn.next()) {
    const auto& range = ranges.range[walk.range];
    const KeyTile<kKeys> tile{range.position + walk.begin, min(range.count - walk.begin, kKeys),
                              static_cast<int>(span.sink), static_cast<int>(span.window)};
    const bool hidden = tile.none_visible(rows.low, rows.high);
    wait_barrier(shared_address(&barriers.full_keys[turn.stage]), turn.parity);
    std::uint32_t p[kKeys / 16][4];
    if (!hidden) {
      float scores[kKeys / 2];
      rows.multiply_keys(queries, tiles.keys(turn.stage), scores);
      leave(barriers.empty_keys[turn.stage]);
      if (!tile.all_visible(rows.low, rows.high)) rows.mask(tile, scores);
      rows.exponentials(scores);
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i)
        p[i / 4][i % 4] = pack<T>(scores[2 * i], scores[2 * i + 1]);
    } else {
      leave(barriers.empty_keys[turn.stage]);
    }
    wait_barrier(shared_address(&barriers.full_values[turn.stage]), turn.parity);
    if (!hidden) rows.multiply_values(tiles.values(turn.stage), p);
    leave(barriers.empty_values[turn.stage]);
  }
}

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1) prefill_attention(PrefillArgs args) {
  extern __shared__ std::byte unaligned[];
  __shared__ VisibleRanges<T> ranges;
  __shared__ Barriers barriers;
  constexpr std::uint32_t kMask = Shape<D>::kAlignment - 1;
  const std::uint32_t lead = (0u - shared_address(unaligned)) & kMask;
  const Tiles<D> tiles{shared_address(unaligned) + lead};

  const PrefillItem item = args.items[blockIdx.x];
  const Segment segment = args.segments[item.segment];
  const RowMap map{args.dims.group(), item.tokens};
  const int first_position = segment.position + item.token;
  const std::int64_t row = segment.row + item.token;
  const std::int64_t query_column = static_cast<std::int64_t>(item.head) * map.group * D;
  if (threadIdx.x == 0) {
    const std::int64_t chunk = (static_cast<std::int64_t>(item.head) * args.rows + segment.row) * D;
    ranges.find(segment, D, static_cast<const T*>(args.chunk_keys) + chunk,
                static_cast<const T*>(args.chunk_values) + chunk, first_position,
                first_position + item.tokens - 1);
    barriers.init();
    fence_matrix_reads();
  }
  const std::int64_t qkv_width = args.dims.qkv_width();
  load_queries<T, D>(unaligned + lead, args.qkv + row * qkv_width + query_column, qkv_width, map);
  __syncthreads();

  const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads;
  if (warpgroup == 0) {
    release_registers<kFetchRegisters>();
    fetch_all<T, D>(ranges, barriers, tiles);
  } else {
    claim_registers<kProductRegisters>();
    GroupRows<T, D> rows(map, first_position, warpgroup - 1);
    multiply_all<T, D>(ranges, barriers, tiles, rows, warpgroup - 1,
                       HeadSpan{segment.sink, segment.window});
    const std::int64_t out_width = static_cast<std::int64_t>(args.dims.query_heads) * D;
    rows.store(map, args.out + row * out_width + query_column, out_width);
  }
}

template <typename T, int D>
void launch(const PrefillArgs& args, cudaStream_t stream) {
  const auto kernel = prefill_attention<T, D>;
  constexpr int kShared = Shape<D>::kSharedBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "prefill attention: shared memory");
  kernel<<<static_cast<unsigned>(args.num_items), kThreads, kShared, stream>>>(args);
  check_launch("prefill attention (Hopper)");
}

}  // namespace
}  // namespace hopper

bool launch_prefill_hopper(const PrefillArgs& args, cudaStream_t stream) {
  if (args.dims.head_dim != 64 && args.dims.head_dim != 128) return false;
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  if (major != 9) return false;
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (args.dims.head_dim == 64) {
      hopper::launch<T, 64>(args, stream);
    } else {
      hopper::launch<T, 128>(args, stream);
    }
  });
  return true;
}

}  // namespace moa_rt::cuda
