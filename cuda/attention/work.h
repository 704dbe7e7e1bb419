// What the attention kernels of one layer are told: tables built on the host, read on the device.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moa_rt::cuda {

// One KV head of one sequence. Its keys are (span, D) at `keys`, its values follow them.
struct Segment {
  std::byte* keys = nullptr;
  std::int32_t sink = 0;
  std::int32_t window = 0;
  std::int32_t row = 0;       // the sequence's first row of the step
  std::int32_t count = 0;     // its rows; one row: decode
  std::int32_t position = 0;  // prefill: of the first row
  // Decode: slots filled at the shortest and the longest length that this table serves.
  std::int32_t sure = 0;
  std::int32_t bound = 0;
  std::int32_t keep = 0;  // 1: what a decode row overwrites is kept (RopeKernelArgs::kept)
};
static_assert(sizeof(Segment) == 40);

// Decode: up to kQueriesPerItem query heads that share a KV head, over slots [begin, end). All a
// block must know before it can ask for its first key, in one load.
inline constexpr int kQueriesPerItem = 8;
inline constexpr int kMaxChunks = 2048;  // of one head
struct DecodeItem {
  const std::byte* keys = nullptr;  // of the segment
  std::int32_t span = 0;
  std::int32_t row = 0;
  std::int32_t query = 0;  // first query head
  std::int32_t queries = 0;
  std::int32_t begin = 0;
  std::int32_t end = 0;
  std::int32_t filled = 0;         // 1: all of [begin, end) at every length; 0: ask the position
  std::int32_t first_partial = 0;  // of the chunks that share these queries
  std::int32_t chunk = 0;          // its number among them
  std::int32_t chunks = 1;
};
static_assert(sizeof(DecodeItem) == 48);

// Prefill: a tile of query tokens of one segment, all query heads of its KV head.
struct PrefillItem {
  std::int32_t segment = 0;
  std::int32_t head = 0;    // KV head
  std::int32_t token = 0;   // first token of the tile, counted from the segment's first row
  std::int32_t tokens = 0;  // at most kTileRows / group
};
static_assert(sizeof(PrefillItem) == 16);

}  // namespace moa_rt::cuda
