// Prefill attention on Hopper: the same work and the same masks as prefill.cu, with warpgroup
// products that read keys and values straight from shared memory.
//
// One block an SM takes item after item. One warpgroup fetches, as far ahead as there is room; two
// multiply, 64 query rows each. They meet only at barriers in shared memory, so that one's softmax
// runs beside the other's products, and the next item's first tiles arrive during the last products
// of this one. Tiles are copied row by row rather than by tensor maps, because the ranges a head
// sees start anywhere in its ring. Half a key tile without a visible pair is not multiplied.
#include <algorithm>

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
constexpr int kStages = 2;  // of keys and values, and of items
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
  static constexpr int kSharedBytes = 3 * kStages * kTileBytes + kAlignment;

  __device__ static std::uint32_t offset(int row, int chunk) {
    return static_cast<std::uint32_t>(chunk / 8 * kHalfBytes + row * 128 +
                                      (chunk % 8 ^ (row & 7)) * 16);
  }
};

// Each stage is full once it may be read and empty once it may be written again.
struct Barriers {
  std::uint64_t full_items[kStages];  // what to do, and the queries
  std::uint64_t full_keys[kStages];
  std::uint64_t full_values[kStages];
  std::uint64_t empty_items[kStages];
  std::uint64_t empty_keys[kStages];
  std::uint64_t empty_values[kStages];

  __device__ void init() {
    constexpr int kProductWarps = 8;
    for (int stage = 0; stage < kStages; ++stage) {
      for (std::uint64_t* full : {full_items, full_keys, full_values}) {
        init_barrier(shared_address(&full[stage]), kGroupThreads);
      }
      for (std::uint64_t* empty : {empty_items, empty_keys, empty_values}) {
        init_barrier(shared_address(&empty[stage]), kProductWarps);
      }
    }
  }
};

// An item with all that both sides must know.
template <typename T>
struct Work {
  VisibleRanges<T> ranges;
  int tokens;
  int first_position;
  int sink;
  int window;
  std::int64_t first_query;  // its first element in queries and out
};

// Items of a block: dear ones first, every other round backwards, so that all blocks get about the
// same sum.
struct ItemWalk {
  int round = 0;
  __device__ bool more(int items) const { return round * static_cast<int>(gridDim.x) < items; }
  __device__ int index() const {
    const int blocks = static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    return round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
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
  std::uint32_t base;  // queries, keys and values of each stage
  __device__ std::uint32_t queries(int stage) const {
    return base + static_cast<std::uint32_t>(3 * stage * Shape<D>::kTileBytes);
  }
  __device__ std::uint32_t keys(int stage) const {
    return queries(stage) + static_cast<std::uint32_t>(Shape<D>::kTileBytes);
  }
  __device__ std::uint32_t values(int stage) const {
    return keys(stage) + static_cast<std::uint32_t>(Shape<D>::kTileBytes);
  }
};

// The fetching warpgroup.
template <typename T, int D>
class Fetcher {
  using S = Shape<D>;
  static constexpr int kRowStep = kGroupThreads / S::kRowChunks;  // a multiple of 8

 public:
  __device__ Fetcher(const PrefillArgs& args, Barriers& barriers, Work<T>* work, Tiles<D> tiles)
      : args_(args), barriers_(barriers), work_(work), tiles_(tiles) {
    const int thread = static_cast<int>(threadIdx.x);
    first_row_ = thread / S::kRowChunks;
    chunk_ = thread % S::kRowChunks;
    first_offset_ = S::offset(first_row_, chunk_);
  }

  __device__ void run() {
    Turn items;
    Turn turn;
    for (ItemWalk walk; walk.more(args_.num_items); ++walk.round) {
      if (walk.index() >= args_.num_items) continue;
      Work<T>& work = work_[items.stage];
      wait_barrier(shared_address(&barriers_.empty_items[items.stage]), items.parity ^ 1);
      if (threadIdx.x == 0) describe_item(args_.items[walk.index()], work);
      asm volatile("bar.sync 1, %0;" ::"n"(kGroupThreads) : "memory");
      fetch_queries(tiles_.queries(items.stage), work);
      hand_over(barriers_.full_items[items.stage]);
      fetch_keys(work.ranges, turn);
      items.next();
    }
    wait_copies<0>();
    fence_matrix_reads();
    if (pending_ != 0) arrive(pending_);
  }

 private:
  __device__ void describe_item(const PrefillItem& item, Work<T>& work) const {
    const Segment segment = args_.segments[item.segment];
    const std::int64_t row = segment.row;
    const std::int64_t chunk = (static_cast<std::int64_t>(item.head) * args_.rows + row) * D;
    work.tokens = item.tokens;
    work.first_position = segment.position + item.token;
    work.sink = segment.sink;
    work.window = segment.window;
    work.first_query = ((row + item.token) * args_.dims.query_heads +
                        static_cast<std::int64_t>(item.head) * args_.dims.group()) *
                       D;
    work.ranges.find(segment, D, static_cast<const T*>(args_.chunk.keys) + chunk,
                     static_cast<const T*>(args_.chunk.values) + chunk, work.first_position,
                     work.first_position + item.tokens - 1);
  }

  __device__ void fetch_queries(std::uint32_t tile, const Work<T>& work) const {
    const RowMap map{args_.dims.group(), work.tokens};
    const T* source = static_cast<const T*>(args_.chunk.queries) + work.first_query + chunk_ * 8;
    const std::int64_t row_stride = static_cast<std::int64_t>(args_.dims.query_heads) * D;
#pragma unroll 2
    for (int i = 0; i < kRows / kRowStep; ++i) {
      const int row = first_row_ + i * kRowStep;
      const bool valid = map.valid(row);
      const T* from = source + map.token(row) * row_stride + (row % map.group) * D;
      copy_async_16(tile + first_offset_ + static_cast<std::uint32_t>(i * kRowStep * 128),
                    valid ? from : source, valid);
    }
  }

  __device__ void fetch_keys(const VisibleRanges<T>& ranges, Turn& turn) {
    for (RangeWalk walk; walk.range < ranges.size; walk.next(ranges, kKeys)) {
      const auto& range = ranges.range[walk.range];
      const std::int64_t offset = static_cast<std::int64_t>(walk.begin) * D;
      const int count = range.count - walk.begin;
      wait_barrier(shared_address(&barriers_.empty_keys[turn.stage]), turn.parity ^ 1);
      fetch(tiles_.keys(turn.stage), range.keys + offset, count);
      hand_over(barriers_.full_keys[turn.stage]);
      wait_barrier(shared_address(&barriers_.empty_values[turn.stage]), turn.parity ^ 1);
      fetch(tiles_.values(turn.stage), range.values + offset, count);
      hand_over(barriers_.full_values[turn.stage]);
      turn.next();
    }
  }

  __device__ void fetch(std::uint32_t tile, const T* source, int count) const {
    const T* from = source + static_cast<std::int64_t>(first_row_) * D + chunk_ * 8;
#pragma unroll 4
    for (int i = 0; i < kKeys / kRowStep; ++i) {
      const bool valid = first_row_ + i * kRowStep < count;
      copy_async_16(tile + first_offset_ + static_cast<std::uint32_t>(i * kRowStep * 128),
                    valid ? from + i * kRowStep * D : source, valid);
    }
  }

  // Ends a copy. `barrier` hears of it one copy later, when it has surely landed: two are always
  // under way.
  __device__ void hand_over(std::uint64_t& barrier) {
    commit_copies();
    wait_copies<1>();
    fence_matrix_reads();
    if (pending_ != 0) arrive(pending_);
    pending_ = shared_address(&barrier);
  }

  const PrefillArgs& args_;
  Barriers& barriers_;
  Work<T>* work_;
  Tiles<D> tiles_;
  int first_row_;
  int chunk_;
  std::uint32_t first_offset_;
  std::uint32_t pending_ = 0;
};

// A multiplying warpgroup's 64 rows; half h of this lane is row base + 8 h.
template <typename T, int D>
struct GroupRows {
  static constexpr int kSums = D / 2;  // accumulators of a thread

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

  template <int Scores>
  __device__ void start_scores(std::uint32_t queries, std::uint32_t keys, float (&scores)[Scores]) {
    pin(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const auto at = static_cast<std::uint32_t>(step / 4 * Shape<D>::kHalfBytes + step % 4 * 32);
      product<T>(scores, matrix_operand(queries + at, 16), matrix_operand(keys + at, 16), step > 0);
    }
    commit_products();
  }

  template <int Keys>
  __device__ void mask(const KeyTile<Keys>& tile, float (&scores)[Keys / 2]) const {
    const int column = (static_cast<int>(threadIdx.x) % 4) * 2;
#pragma unroll
    for (int i = 0; i < Keys / 2; ++i) {
      if (!tile.visible(position[i / 2 % 2], i / 4 * 8 + column + i % 2)) scores[i] = -kInfinity;
    }
  }

  // Scores become exp2((score - max) * scale). Returns what brings the sums so far to the new
  // maximum.
  template <int Scores>
  __device__ float2 exponentials(float (&scores)[Scores]) {
    const float scale = kLog2E * rsqrtf(static_cast<float>(D));
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = -kInfinity;
#pragma unroll
      for (int i = 2 * half; i < Scores; i += 4) {
        best = fmaxf(best, fmaxf(scores[i], scores[i + 1]));
      }
      factors[half] = state[half].raise(max_lanes<4>(best) * scale);
      const float shift = state[half].shift();
      float sum = 0.0f;
#pragma unroll
      for (int i = 2 * half; i < Scores; i += 4) {
        scores[i] = exp2_approx(fmaf(scores[i], scale, -shift));
        scores[i + 1] = exp2_approx(fmaf(scores[i + 1], scale, -shift));
        sum += scores[i] + scores[i + 1];
      }
      state[half].sum += sum;
    }
    return {factors[0], factors[1]};
  }

  __device__ void rescale(float2 factors) {
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      sums[i] *= factors.x;
      sums[i + 1] *= factors.x;
      sums[i + 2] *= factors.y;
      sums[i + 3] *= factors.y;
    }
  }

  template <int Steps>
  __device__ void start_sums(std::uint32_t values, const std::uint32_t (&p)[Steps][4]) {
    pin(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
      product_transposed<T>(sums, p[step],
                            matrix_operand(values + static_cast<std::uint32_t>(step * 16 * 128),
                                           Shape<D>::kHalfBytes));
    }
    commit_products();
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

// One of the two multiplying warpgroups.
template <typename T, int D>
class Multiplier {
  using Rows = GroupRows<T, D>;

 public:
  __device__ Multiplier(const PrefillArgs& args, Barriers& barriers, const Work<T>* work,
                        Tiles<D> tiles, int group)
      : args_(args), barriers_(barriers), work_(work), tiles_(tiles), group_(group) {}

  __device__ void run() {
    const std::int64_t row_stride = static_cast<std::int64_t>(args_.dims.query_heads) * D;
    Turn items;
    for (ItemWalk walk; walk.more(args_.num_items); ++walk.round) {
      if (walk.index() >= args_.num_items) continue;
      wait_barrier(shared_address(&barriers_.full_items[items.stage]), items.parity);
      const Work<T>& work = work_[items.stage];
      const RowMap map{args_.dims.group(), work.tokens};
      Rows rows(map, work.first_position, group_);
      const std::uint32_t queries =
          tiles_.queries(items.stage) + static_cast<std::uint32_t>(group_ * 64 * 128);
      for (RangeWalk tile; tile.range < work.ranges.size; tile.next(work.ranges, kKeys)) {
        take_tile(rows, queries, work, work.ranges.range[tile.range], tile.begin);
        turn_.next();
      }
      finish_pending(rows);
      float* out = args_.out + work.first_query;
      leave(barriers_.empty_items[items.stage]);
      rows.store(map, out, row_stride);
      items.next();
    }
  }

 private:
  __device__ static void leave(std::uint64_t& barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(shared_address(&barrier));
  }

  // A whole tile, or the half of it that holds all visible pairs.
  __device__ void take_tile(Rows& rows, std::uint32_t queries, const Work<T>& work,
                            const KeyRange<T>& range, int begin) {
    const int first = range.position + begin;
    const int count = min(range.count - begin, kKeys);
    const int sink = work.sink;
    const int window = work.window;
    constexpr int kHalf = kKeys / 2;
    const KeyTile<kHalf> lower{first, min(count, kHalf), sink, window};
    const KeyTile<kHalf> upper{first + kHalf, count - kHalf, sink, window};
    const bool use_lower = !lower.none_visible(rows.low, rows.high);
    const bool use_upper = count > kHalf && !upper.none_visible(rows.low, rows.high);
    wait_barrier(shared_address(&barriers_.full_keys[turn_.stage]), turn_.parity);
    if (use_lower && use_upper) {
      const KeyTile<kKeys> tile{first, count, sink, window};
      if (pending_) {
        take_next(rows, queries, tile);
      } else {
        take_first(rows, queries, tile);
      }
      return;
    }
    finish_pending(rows);
    if (use_lower) {
      take_half(rows, queries, lower, 0);
    } else if (use_upper) {
      take_half(rows, queries, upper, kHalf * 128);
    } else {
      leave(barriers_.empty_keys[turn_.stage]);
      wait_barrier(shared_address(&barriers_.full_values[turn_.stage]), turn_.parity);
      leave(barriers_.empty_values[turn_.stage]);
    }
  }

  // A tile's probabilities, its values still to be multiplied.
  __device__ void take_first(Rows& rows, std::uint32_t queries, const KeyTile<kKeys>& tile) {
    float scores[kKeys / 2];
    rows.start_scores(queries, tiles_.keys(turn_.stage), scores);
    wait_products<0>();
    pin(scores);
    leave(barriers_.empty_keys[turn_.stage]);
    if (!tile.all_visible(rows.low, rows.high)) rows.mask(tile, scores);
    rows.rescale(rows.exponentials(scores));
    keep(scores);
  }

  // The same, its exponentials beside the product of the tile before.
  __device__ void take_next(Rows& rows, std::uint32_t queries, const KeyTile<kKeys>& tile) {
    wait_barrier(shared_address(&barriers_.full_values[before_.stage]), before_.parity);
    float scores[kKeys / 2];
    rows.start_scores(queries, tiles_.keys(turn_.stage), scores);
    rows.start_sums(tiles_.values(before_.stage), p_);
    wait_products<1>();
    pin(scores);
    leave(barriers_.empty_keys[turn_.stage]);
    if (!tile.all_visible(rows.low, rows.high)) rows.mask(tile, scores);
    const float2 factors = rows.exponentials(scores);
    wait_products<0>();
    pin(rows.sums);
    leave(barriers_.empty_values[before_.stage]);
    rows.rescale(factors);
    keep(scores);
  }

  __device__ void keep(const float (&scores)[kKeys / 2]) {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      p_[i / 4][i % 4] = pack<T>(scores[2 * i], scores[2 * i + 1]);
    }
    before_ = turn_;
    pending_ = true;
  }

  __device__ void finish_pending(Rows& rows) {
    if (!pending_) return;
    wait_barrier(shared_address(&barriers_.full_values[before_.stage]), before_.parity);
    rows.start_sums(tiles_.values(before_.stage), p_);
    wait_products<0>();
    pin(rows.sums);
    leave(barriers_.empty_values[before_.stage]);
    pending_ = false;
  }

  // Half a tile, `lead` bytes into keys and values, from scores to sums.
  __device__ void take_half(Rows& rows, std::uint32_t queries, const KeyTile<kKeys / 2>& tile,
                            std::uint32_t lead) {
    float scores[kKeys / 4];
    rows.start_scores(queries, tiles_.keys(turn_.stage) + lead, scores);
    wait_products<0>();
    pin(scores);
    leave(barriers_.empty_keys[turn_.stage]);
    if (!tile.all_visible(rows.low, rows.high)) rows.mask(tile, scores);
    rows.rescale(rows.exponentials(scores));
    std::uint32_t p[kKeys / 32][4];
#pragma unroll
    for (int i = 0; i < kKeys / 8; ++i) {
      p[i / 4][i % 4] = pack<T>(scores[2 * i], scores[2 * i + 1]);
    }
    wait_barrier(shared_address(&barriers_.full_values[turn_.stage]), turn_.parity);
    rows.start_sums(tiles_.values(turn_.stage) + lead, p);
    wait_products<0>();
    pin(rows.sums);
    leave(barriers_.empty_values[turn_.stage]);
  }

  const PrefillArgs& args_;
  Barriers& barriers_;
  const Work<T>* work_;
  Tiles<D> tiles_;
  int group_;
  Turn turn_;
  // A tile whose values are still to be multiplied.
  bool pending_ = false;
  Turn before_;
  std::uint32_t p_[kKeys / 16][4];
};

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_attention(const __grid_constant__ PrefillArgs args) {
  extern __shared__ std::byte unaligned[];
  __shared__ Work<T> work[kStages];
  __shared__ Barriers barriers;
  constexpr std::uint32_t kMask = Shape<D>::kAlignment - 1;
  const std::uint32_t lead = (0u - shared_address(unaligned)) & kMask;
  const Tiles<D> tiles{shared_address(unaligned) + lead};
  if (threadIdx.x == 0) {
    barriers.init();
    fence_matrix_reads();
  }
  __syncthreads();

  const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads;
  if (warpgroup == 0) {
    release_registers<kFetchRegisters>();
    Fetcher<T, D>(args, barriers, work, tiles).run();
  } else {
    claim_registers<kProductRegisters>();
    Multiplier<T, D>(args, barriers, work, tiles, warpgroup - 1).run();
  }
}

template <typename T, int D>
void launch(const PrefillArgs& args, int processors, cudaStream_t stream) {
  const auto kernel = prefill_attention<T, D>;
  constexpr int kShared = Shape<D>::kSharedBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "prefill attention: shared memory");
  const int blocks = std::min(processors, args.num_items);
  kernel<<<static_cast<unsigned>(blocks), kThreads, kShared, stream>>>(args);
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
  int processors = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
  dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    if (args.dims.head_dim == 64) {
      hopper::launch<T, 64>(args, processors, stream);
    } else {
      hopper::launch<T, 128>(args, processors, stream);
    }
  });
  return true;
}

}  // namespace moa_rt::cuda
