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
#include "cuda/attention/prefill_hopper_fetch.cuh"
#include "cuda/attention/prefill_hopper_rows.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/runtime/check.h"

namespace moa_rt::cuda {
namespace hopper {
namespace {

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
