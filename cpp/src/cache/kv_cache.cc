#include "cache/kv_cache.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

// Whether a head that has seen positions [0, written_end) still holds every token that it kept of
// [0, end). Position k of the ring is lost once k + window has been written into its slot, so the
// oldest one, k = sink, tells; a window of one holds no token but the query's own.
bool nothing_lost(const HeadSpan& head, std::int64_t written_end, std::int64_t end) {
  return written_end <= head.span() || end <= head.sink || head.window == 1;
}

}  // namespace

PositionRuns position_runs(const HeadSpan& head, std::int64_t length) {
  PositionRuns result;
  const auto add = [&result](std::int64_t slot, std::int64_t position, std::int64_t count) {
    if (count <= 0) return;
    result.runs[static_cast<std::size_t>(result.size++)] = {slot, position, count};
  };
  add(0, 0, std::min(length, head.sink));
  const std::int64_t in_ring = std::min(length - head.sink, head.window);
  if (in_ring <= 0) return result;
  const std::int64_t oldest = length - in_ring;
  const std::int64_t slot = slot_of(head, oldest);
  const std::int64_t to_the_end = std::min(in_ring, head.span() - slot);
  add(slot, oldest, to_the_end);
  add(head.sink, oldest + to_the_end, in_ring - to_the_end);
  return result;
}

KVCache::KVCache(Allocator& allocator, CacheLayout layout)
    : layout_(std::move(layout)), storage_(allocator, layout_.total_bytes()) {}

HeadSegment KVCache::segment(std::int64_t layer, std::int64_t head) const {
  return {.keys = storage_.data() + layout_.key_offset(layer, head),
          .values = storage_.data() + layout_.value_offset(layer, head),
          .head = layout_.head_span(layer, head)};
}

void KVCache::advance(std::int64_t count) {
  if (count < 0) throw InternalError("KV cache: advance by " + std::to_string(count));
  length_ += count;
  written_end_ = std::max(written_end_, length_);
}

bool KVCache::nothing_lost_before(std::int64_t end) const {
  for (std::int64_t layer = 0; layer < layout_.num_layers(); ++layer) {
    for (std::int64_t head = 0; head < layout_.num_kv_heads(); ++head) {
      if (!nothing_lost(layout_.head_span(layer, head), written_end_, end)) return false;
    }
  }
  return true;
}

// The next query, at position `end`, reaches back to end - window + 1. The token before that one
// may be lost, and is once position `end` itself has been written; one more is always needed.
bool KVCache::can_rollback(std::int64_t count) const {
  if (count < 0 || count > length_) return false;
  const std::int64_t end = length_ - count;
  return end >= written_end_ - 1 || nothing_lost_before(end);
}

void KVCache::rollback(std::int64_t count) {
  if (!can_rollback(count)) {
    throw StateError(
        describe({.item = "KV cache",
                  .field = "rollback",
                  .got = std::to_string(count) + " of " + std::to_string(length_) + " tokens",
                  .want = "no window that has dropped a token needed again"}));
  }
  length_ -= count;
  // What was written beyond the new end no longer matters.
  if (nothing_lost_before(length_)) written_end_ = length_;
}

}  // namespace moa_rt
