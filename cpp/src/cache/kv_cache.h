// KVCache: what one sequence keeps. One allocation; for each layer and KV head a segment of exactly
// its own span, [sink | ring].
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/allocator.h"
#include "plan/cache_layout.h"

namespace moa_rt {

// A range of consecutive slots that holds a range of consecutive positions.
struct PositionRun {
  std::int64_t slot = 0;
  std::int64_t position = 0;
  std::int64_t count = 0;
};

// The filled slots of a head as at most three runs, in order of position: the sink, then the ring
// from its oldest token on.
struct PositionRuns {
  std::array<PositionRun, 3> runs;
  int size = 0;
  const PositionRun* begin() const { return runs.data(); }
  const PositionRun* end() const { return runs.data() + size; }
};

// Runs of a head after positions [0, length) have been appended. After a rollback the oldest token
// of a full ring may already be gone from its slot; no query from `length` on sees that position.
PositionRuns position_runs(const HeadSpan& head, std::int64_t length);

// Typed access to one head of one layer.
struct HeadSegment {
  std::byte* keys = nullptr;    // (span, head_dim)
  std::byte* values = nullptr;  // (span, head_dim)
  HeadSpan head;
};

class KVCache {
 public:
  // Allocates layout.total_bytes(). Throws ResourceError.
  KVCache(Allocator& allocator, CacheLayout layout);

  const CacheLayout& layout() const { return layout_; }
  std::int64_t bytes() const { return layout_.total_bytes(); }
  HeadSegment segment(std::int64_t layer, std::int64_t head) const;

  // Tokens appended in every layer: positions [0, length) have been seen.
  std::int64_t length() const { return length_; }
  // Called once after all layers have written `count` further positions.
  void advance(std::int64_t count);

  // Whether the last `count` tokens can be taken back: no window may have dropped a token that a
  // query at the new end would still see. Exact for every head: one token always can, more only
  // where nothing kept of the shorter sequence has been overwritten.
  bool can_rollback(std::int64_t count) const;
  // Throws StateError, and changes nothing, if they cannot.
  void rollback(std::int64_t count);

 private:
  bool nothing_lost_before(std::int64_t end) const;

  CacheLayout layout_;
  Storage storage_;
  std::int64_t length_ = 0;
  std::int64_t written_end_ =
      0;  // highest length ever reached: slots up to it have been overwritten
};

}  // namespace moa_rt
