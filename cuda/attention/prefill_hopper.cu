// Prefill attention on Hopper: the same work and the same masks as prefill.cu, with warpgroup
// products that read keys and values straight from shared memory.
//
// One block an SM takes item after item. One warpgroup fetches, as far ahead as there is room; two
// multiply, 64 query rows each. They meet only at barriers in shared memory, so that one's softmax
// runs beside the other's products, and the next item's first tiles arrive during the last products
// of this one. Tiles are copied row by row rather than by tensor maps, because the ranges a head
// sees start anywhere in its ring.
#include <algorithm>

#include "cuda/attention/attention.h"
#include "cuda/attention/prefill_hopper.h"
#include "cuda/attention/prefill_hopper_fetch.cuh"
#include "cuda/attention/prefill_hopper_rows.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace hopper {
namespace {

// One of the two multiplying warpgroups. A tile's scores and the product of the tile before with
// its values are under way together, across items too: a group waits for one product alone only at
// its start and end. Tiles are multiplied whole, by both groups: half a tile that no row sees is
// masked, which costs less than a way around it through the pipeline.
template <typename T, int D>
class Multiplier {
  using Rows = GroupRows<T, D>;
  using Scores = float[kKeys / 2];

 public:
  __device__ Multiplier(const PrefillArgs& args, Barriers& barriers, const Work<T>* work,
                        Tiles<D> tiles, int group)
      : args_(args), barriers_(barriers), work_(work), tiles_(tiles), group_(group), rows_(group) {}

  __device__ void run() {
    Turn items;
    for (ItemWalk walk; walk.more(args_.num_items); ++walk.round) {
      if (walk.index() >= args_.num_items) continue;
      wait_barrier(shared_address(&barriers_.full_items[items.stage]), items.parity);
      take_item(work_[items.stage], tiles_.queries(items.stage));
      arrive(shared_address(&barriers_.empty_items[items.stage]));
      items.next();
    }
    finish_products();
    store();
  }

 private:
  // Of a tile, which only the matrix units read.
  __device__ static void leave(std::uint64_t& barrier) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(shared_address(&barrier));
  }

  __device__ void take_item(const Work<T>& work, std::uint32_t query_tile) {
    const std::uint32_t queries = query_tile + static_cast<std::uint32_t>(group_ * 64 * 128);
    const RowMap map{args_.dims.group(), work.tokens};
    RangeWalk walk;
    rows_.place(map, work.first_position);
    if (pending_) {
      Scores scores;
      multiply(queries, scores);
      finish_multiply();
      store();
      begin_rows(map, work);
      weigh(next_tile(walk, work), work, scores);
      keep(scores);
    } else {
      begin_rows(map, work);
      Scores scores;
      wait_keys();
      rows_.start_scores(queries, tiles_.keys(turn_.stage), scores);
      wait_products<0>();
      pin(scores);
      leave(barriers_.empty_keys[turn_.stage]);
      weigh(next_tile(walk, work), work, scores);
      keep(scores);
    }
    while (walk.range < work.ranges.size) {
      Scores scores;
      multiply(queries, scores);
      const float2 factors = weigh(next_tile(walk, work), work, scores);
      finish_multiply();
      rows_.rescale(factors);
      keep(scores);
    }
  }

  struct Tile {
    KeyHalf lower;
    KeyHalf upper;
  };
  __device__ static Tile next_tile(RangeWalk& walk, const Work<T>& work) {
    Tile tile;
    tile.lower = next_half(walk, work.ranges);
    tile.upper = next_half(walk, work.ranges);
    return tile;
  }

  __device__ void wait_keys() {
    wait_barrier(shared_address(&barriers_.full_keys[turn_.stage]), turn_.parity);
    fence_matrix_reads();
  }

  // Scores of this tile, while the product of the tile before with its values goes on.
  __device__ void multiply(std::uint32_t queries, Scores& scores) {
    wait_barrier(shared_address(&barriers_.full_values[before_.stage]), before_.parity);
    wait_keys();
    rows_.start_scores(queries, tiles_.keys(turn_.stage), scores);
    rows_.start_sums(tiles_.values(before_.stage), p_);
    wait_products<1>();
    pin(scores);
    leave(barriers_.empty_keys[turn_.stage]);
  }
  // The assembler waits here before the exponentials, not after them. Made to wait after them it
  // was 3 % slower on an H100: the place of the values was free later.
  __device__ void finish_multiply() {
    wait_products<0>();
    pin(rows_.sums);
    leave(barriers_.empty_values[before_.stage]);
  }

  // Scores become probabilities. Returns what brings the sums so far to the new maximum.
  __device__ float2 weigh(const Tile& tile, const Work<T>& work, Scores& scores) {
    if (!rows_.sees_all(tile.lower, work.sink, work.window)) {
      rows_.template mask<0>(tile.lower, work.sink, work.window, scores);
    }
    if (!rows_.sees_all(tile.upper, work.sink, work.window)) {
      rows_.template mask<kHalf / 2>(tile.upper, work.sink, work.window, scores);
    }
    return rows_.exponentials(scores);
  }

  __device__ void keep(const Scores& scores) {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) {
      p_[i / 4][i % 4] = pack<T>(scores[2 * i], scores[2 * i + 1]);
    }
    before_ = turn_;
    turn_.next();
    pending_ = true;
  }

  __device__ void finish_products() {
    wait_barrier(shared_address(&barriers_.full_values[before_.stage]), before_.parity);
    fence_matrix_reads();
    rows_.start_sums(tiles_.values(before_.stage), p_);
    finish_multiply();
  }

  __device__ void begin_rows(RowMap map, const Work<T>& work) {
    rows_.reset();
    tokens_ = work.tokens;
    out_ = args_.out + work.first_query;
  }
  __device__ void store() {
    rows_.store({args_.dims.group(), tokens_}, out_,
                static_cast<std::int64_t>(args_.dims.query_heads) * D);
  }

  const PrefillArgs& args_;
  Barriers& barriers_;
  const Work<T>* work_;
  Tiles<D> tiles_;
  int group_;
  Rows rows_;
  int tokens_ = 0;  // of the item whose sums rows_ holds
  float* out_ = nullptr;
  Turn turn_;
  // The tile whose values are still to be multiplied.
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
void launch(const PrefillArgs& args, cudaStream_t stream) {
  const auto kernel = prefill_attention<T, D>;
  constexpr int kShared = Shape<D>::kSharedBytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "prefill attention: shared memory");
  const int blocks = std::min(device_attribute(cudaDevAttrMultiProcessorCount), args.num_items);
  launch_in_order("prefill attention (Hopper)", kernel, dim3(static_cast<unsigned>(blocks)),
                  kThreads, kShared, stream, args);
}

}  // namespace
}  // namespace hopper

bool launch_prefill_hopper(const PrefillArgs& args, cudaStream_t stream) {
  if (args.dims.head_dim != 64 && args.dims.head_dim != 128) return false;
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) != 9) return false;
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
