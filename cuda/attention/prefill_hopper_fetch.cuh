// The fetching warpgroup of the Hopper prefill kernel: items, queries, keys and values.
#pragma once

#include "cuda/attention/prefill_hopper_work.cuh"

namespace moa_rt::cuda::hopper {

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

}  // namespace moa_rt::cuda::hopper
