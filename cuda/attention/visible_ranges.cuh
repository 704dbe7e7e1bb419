// The keys that a tile of queries may see, as ranges of consecutive positions in memory.
#pragma once

#include <cstdint>

#include "cuda/attention/work.h"

namespace moa_rt::cuda {

template <typename T>
struct KeyRange {
  const T* keys;  // (count, D), of `position` onwards
  const T* values;
  int position;
  int count;
};

// Up to two ranges (sink, window) of up to four runs: the sink, the older and the newer part of the
// ring, the step's own keys. Together they hold every key that a query in [first, last] sees;
// neighbours in a range may still be hidden from some of the queries.
template <typename T>
struct VisibleRanges {
  KeyRange<T> range[8];
  int size;

  // Queries at positions [first, last] of a segment whose own keys are (count, D) at chunk_keys.
  __device__ void find(const Segment& segment, int head_dim, const T* chunk_keys,
                       const T* chunk_values, int first, int last) {
    size = 0;
    const int sink = segment.sink;
    const int window = segment.window;
    const int length = segment.position;
    const T* keys = reinterpret_cast<const T*>(segment.keys);
    const T* values = keys + static_cast<std::int64_t>(sink + window) * head_dim;
    const auto run = [&](const T* k, const T* v, int slot, int position, int count) {
      const std::int64_t offset = static_cast<std::int64_t>(slot) * head_dim;
      add_run(k + offset, v + offset, head_dim, position, count, sink, window, first, last);
    };

    run(keys, values, 0, 0, min(length, sink));
    const int in_ring = min(length - sink, window);
    if (in_ring > 0) {
      const int oldest = length - in_ring;
      const int ring_slot = (oldest - sink) % window;
      const int older = min(in_ring, window - ring_slot);
      run(keys, values, sink + ring_slot, oldest, older);
      run(keys, values, sink, oldest + older, in_ring - older);
    }
    run(chunk_keys, chunk_values, 0, length, segment.count);
  }

 private:
  __device__ void add_run(const T* keys, const T* values, int head_dim, int position, int count,
                          int sink, int window, int first, int last) {
    const int end = min(position + count, last + 1);
    const int sink_end = min(end, sink);                         // [position, sink_end)
    const int window_begin = max(position, first - window + 1);  // [window_begin, end)
    if (window_begin <= sink_end) {
      add(keys, values, head_dim, position, position, end);
    } else {
      add(keys, values, head_dim, position, position, sink_end);
      add(keys, values, head_dim, position, window_begin, end);
    }
  }

  __device__ void add(const T* keys, const T* values, int head_dim, int position, int begin,
                      int end) {
    if (begin >= end) return;
    const std::int64_t offset = static_cast<std::int64_t>(begin - position) * head_dim;
    range[size++] = {keys + offset, values + offset, begin, end - begin};
  }
};

// Walks the tiles of all ranges in order.
struct RangeWalk {
  int range = 0;
  int begin = 0;  // first key of the tile, counted from the range's first

  template <typename Ranges>
  __device__ void next(const Ranges& ranges, int tile) {
    if (range >= ranges.size) return;
    begin += tile;
    if (begin >= ranges.range[range].count) {
      begin = 0;
      ++range;
    }
  }
};

}  // namespace moa_rt::cuda
