// What the warpgroups of the Hopper prefill kernel share: tiles, items and the barriers they meet
// at.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/attention/prefill_tile.cuh"
#include "cuda/attention/visible_ranges.cuh"
#include "cuda/device/copy.cuh"
#include "cuda/device/hopper.cuh"

namespace moa_rt::cuda::hopper {

inline constexpr int kGroupThreads = 128;
inline constexpr int kThreads = 3 * kGroupThreads;  // fetches, multiplies, multiplies
inline constexpr int kRows = kPrefillTileRows;
inline constexpr int kKeys = 128;  // of a tile: two runs of kHalf keys, each from any range
inline constexpr int kHalf = kKeys / 2;
inline constexpr int kStages = 2;  // of keys and values, and of items
inline constexpr int kFetchRegisters = 40;
inline constexpr int kProductRegisters = 232;

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
      for (std::uint64_t* full : {full_keys, full_values}) {
        init_barrier(shared_address(&full[stage]), kGroupThreads);
      }
      // One more where the work itself is written. Each thread that reads it gives it up itself.
      init_barrier(shared_address(&full_items[stage]), kGroupThreads + 1);
      init_barrier(shared_address(&empty_items[stage]), 2 * kGroupThreads);
      for (std::uint64_t* empty : {empty_keys, empty_values}) {
        init_barrier(shared_address(&empty[stage]), kProductWarps);
      }
    }
  }
};

// Half a key tile: keys at consecutive positions.
struct KeyHalf {
  int first;
  int count;
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

// The next keys of a walk, none past the end. A half ends with its range, so that the sink and the
// window of a narrow head share a tile.
template <typename T>
__device__ inline KeyHalf next_half(RangeWalk& walk, const VisibleRanges<T>& ranges) {
  if (walk.range >= ranges.size) return {0, 0};
  const auto& range = ranges.range[walk.range];
  const KeyHalf half{range.position + walk.begin, min(range.count - walk.begin, kHalf)};
  walk.next(ranges, kHalf);
  return half;
}

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

}  // namespace moa_rt::cuda::hopper
