// Schedules of the attention kernels: which block does what. Host code, no device needed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/attention/work.h"
#include "moa_rt/span.h"

namespace moa_rt::cuda {

// Decode lengths are scheduled for by their upper bound in steps of so many tokens, so that a
// schedule holds for as many decode steps: 256, or an eighth to a quarter of the length.
inline constexpr std::int64_t length_step(std::int64_t length) {
  std::int64_t step = 256;
  while (step * 8 <= length) step *= 2;
  return step;
}

// Most and fewest filled slots of a head over all lengths that share a schedule with `length`.
inline std::int64_t filled_bound(const HeadSpan& head, std::int64_t length) {
  return filled_slots(head, round_up(length, length_step(length)));
}
inline std::int64_t filled_surely(const HeadSpan& head, std::int64_t length) {
  const std::int64_t step = length_step(length);
  return filled_slots(head, round_up(length, step) - step + 1);
}

// How a sequence's heads are cut into chunks of slots. It depends on the sequence and on the device
// alone, never on the rest of the batch, so that a sequence's result has the same bits in any
// batch. Chunks of one head are equally long; alone, a sequence fills `slots` blocks at most once
// if chunks of kMaxChunk allow it. Chunks of 128 slots cost 17 % more where many short segments
// meet (H100, 16 x 8 KV heads x 4096) and gained nothing at batch 1.
inline constexpr std::int64_t kMinChunk = 256;
inline constexpr std::int64_t kMaxChunk = 1024;
inline constexpr std::int64_t kChunkStep = 64;
static_assert(kMaxTokens / kMaxChunk <= kMaxChunks);
std::int64_t chunk_target(std::span<const Segment> heads, std::int64_t slots);
// The length of all chunks of a head but the last.
std::int64_t chunk_length(std::int64_t bound, std::int64_t target);

// Most chunks of one sequence and layer: what the partial results of decode are sized by.
std::int64_t max_chunks(std::int64_t num_kv_heads, std::int64_t max_seq_len, std::int64_t slots);

// Of the segments (sequences x num_kv_heads) with one row: items, long first. Returns the number of
// partial results.
std::int64_t schedule_decode(std::span<const Segment> segments, std::int64_t num_kv_heads,
                             std::int64_t group, std::int64_t slots,
                             std::vector<DecodeItem>& items);

// Of the segments with more rows: tiles of tile_rows / group tokens, dear first.
void schedule_prefill(std::span<const Segment> segments, std::int64_t num_kv_heads,
                      std::int64_t group, std::int64_t tile_rows, std::vector<PrefillItem>& items);

}  // namespace moa_rt::cuda
