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
    for (ItemWalk walk; walk.more(args_.num_items); ++walk.round) {
      if (walk.index() >= args_.num_items) continue;
      Work<T>& work = work_[items.stage];
      wait_barrier(shared_address(&barriers_.empty_items[items.stage]), items.parity ^ 1);
      if (threadIdx.x == 0) {
        describe_item(args_.items[walk.index()], work);
        arrive(shared_address(&barriers_.full_items[items.stage]));
      }
      asm volatile("bar.sync 1, %0;" ::"n"(kGroupThreads) : "memory");
      fetch_queries(tiles_.queries(items.stage), work);
      arrive_after_copies(shared_address(&barriers_.full_items[items.stage]));
      fetch_tiles(work.ranges);
      items.next();
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
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

  // Keys run one tile ahead of values: they are wanted first and their places are free first.
  __device__ void fetch_tiles(const VisibleRanges<T>& ranges) {
    RangeWalk keys;
    RangeWalk values;
    fetch_keys(ranges, keys);
    while (values.range < ranges.size) {
      if (keys.range < ranges.size) fetch_keys(ranges, keys);
      fetch<true>(tiles_.values(values_.stage), barriers_.empty_values, barriers_.full_values,
                  values_, ranges, values);
    }
  }

  __device__ void fetch_keys(const VisibleRanges<T>& ranges, RangeWalk& walk) {
    fetch<false>(tiles_.keys(keys_.stage), barriers_.empty_keys, barriers_.full_keys, keys_, ranges,
                 walk);
  }

  // A tile of keys or values, once its place is free.
  template <bool Values>
  __device__ void fetch(std::uint32_t tile, std::uint64_t* empty, std::uint64_t* full, Turn& turn,
                        const VisibleRanges<T>& ranges, RangeWalk& walk) {
    wait_barrier(shared_address(&empty[turn.stage]), turn.parity ^ 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = walk.range < ranges.size;
      const auto& range = ranges.range[there ? walk.range : 0];
      const int count = there ? range.count - walk.begin : 0;
      fetch_half(tile + static_cast<std::uint32_t>(half * kHalf * 128),
                 (Values ? range.values : range.keys) + static_cast<std::int64_t>(walk.begin) * D,
                 count);
      walk.next(ranges, kHalf);
    }
    arrive_after_copies(shared_address(&full[turn.stage]));
    turn.next();
  }

  __device__ void fetch_half(std::uint32_t tile, const T* source, int count) const {
    const T* from = source + static_cast<std::int64_t>(first_row_) * D + chunk_ * 8;
#pragma unroll 4
    for (int i = 0; i < kHalf / kRowStep; ++i) {
      const bool valid = first_row_ + i * kRowStep < count;
      copy_async_16(tile + first_offset_ + static_cast<std::uint32_t>(i * kRowStep * 128),
                    valid ? from + i * kRowStep * D : source, valid);
    }
  }

  const PrefillArgs& args_;
  Barriers& barriers_;
  Work<T>* work_;
  Tiles<D> tiles_;
  int first_row_;
  int chunk_;
  std::uint32_t first_offset_;
  Turn keys_;
  Turn values_;
};

}  // namespace moa_rt::cuda::hopper
