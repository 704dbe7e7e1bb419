#include "cuda/attention/schedule.h"

#include <algorithm>

namespace moa_rt::cuda {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t chunks_at(std::span<const Segment> heads, std::int64_t target) {
  std::int64_t chunks = 0;
  for (const Segment& head : heads) chunks += ceil_div(head.bound, target);
  return chunks;
}

// Keys that some query of the tile sees: what the tile costs.
std::int64_t visible_keys(const Segment& segment, const PrefillItem& item) {
  const std::int64_t last = segment.position + item.token + item.tokens - 1;
  return std::min(last + 1, std::int64_t{segment.sink} + segment.window + item.tokens);
}

// Stable, by counting: lists of ten thousands are made while the device waits for them.
void sort_long_first(std::vector<DecodeItem>& items) {
  const auto place_of = [](const DecodeItem& item) {
    return static_cast<std::size_t>(kMaxChunk - (item.end - item.begin));
  };
  std::vector<std::size_t> places(static_cast<std::size_t>(kMaxChunk) + 2, 0);
  for (const DecodeItem& item : items) ++places[place_of(item) + 1];
  for (std::size_t i = 1; i < places.size(); ++i) places[i] += places[i - 1];
  std::vector<DecodeItem> sorted(items.size());
  for (const DecodeItem& item : items) sorted[places[place_of(item)]++] = item;
  items.swap(sorted);
}

}  // namespace

std::int64_t chunk_target(std::span<const Segment> heads, std::int64_t slots) {
  std::int64_t low = kMinChunk / kChunkStep;
  std::int64_t high = kMaxChunk / kChunkStep;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (chunks_at(heads, middle * kChunkStep) <= slots) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low * kChunkStep;
}

std::int64_t chunk_length(std::int64_t bound, std::int64_t target) {
  return round_up(ceil_div(bound, std::max<std::int64_t>(ceil_div(bound, target), 1)), kChunkStep);
}

std::int64_t max_chunks(std::int64_t num_kv_heads, std::int64_t max_seq_len, std::int64_t slots) {
  // A span is rounded up by less than a chunk.
  return std::max(slots, num_kv_heads * (ceil_div(max_seq_len, kMaxChunk) + 1));
}

std::int64_t schedule_decode(std::span<const Segment> segments, std::int64_t num_kv_heads,
                             std::int64_t group, std::int64_t slots,
                             std::vector<DecodeItem>& items) {
  items.clear();
  std::int64_t partials = 0;
  const auto heads_each = static_cast<std::size_t>(num_kv_heads);
  for (std::size_t first = 0; first < segments.size(); first += heads_each) {
    if (segments[first].count != 1) continue;
    const std::int64_t target = chunk_target(segments.subspan(first, heads_each), slots);
    for (std::int64_t head = 0; head < num_kv_heads; ++head) {
      const Segment& segment = segments[first + static_cast<std::size_t>(head)];
      const std::int64_t length = chunk_length(segment.bound, target);
      const std::int64_t chunks = ceil_div(segment.bound, length);
      for (std::int64_t query = 0; query < group; query += kQueriesPerItem) {
        for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
          const std::int64_t end = std::min<std::int64_t>(segment.bound, (chunk + 1) * length);
          items.push_back({.keys = segment.keys,
                           .span = segment.sink + segment.window,
                           .row = segment.row,
                           .query = static_cast<std::int32_t>(head * group + query),
                           .queries = static_cast<std::int32_t>(
                               std::min<std::int64_t>(kQueriesPerItem, group - query)),
                           .begin = static_cast<std::int32_t>(chunk * length),
                           .end = static_cast<std::int32_t>(end),
                           .filled = end <= segment.sure ? 1 : 0,
                           .first_partial = static_cast<std::int32_t>(partials),
                           .chunk = static_cast<std::int32_t>(chunk),
                           .chunks = static_cast<std::int32_t>(chunks)});
        }
        if (chunks > 1) partials += chunks;
      }
    }
  }
  sort_long_first(items);
  return partials;
}

void schedule_prefill(std::span<const Segment> segments, std::int64_t num_kv_heads,
                      std::int64_t group, std::int64_t tile_rows, std::vector<PrefillItem>& items) {
  items.clear();
  const std::int64_t tile_tokens = tile_rows / group;
  for (std::size_t index = 0; index < segments.size(); ++index) {
    const Segment& segment = segments[index];
    if (segment.count == 1) continue;
    for (std::int64_t token = 0; token < segment.count; token += tile_tokens) {
      items.push_back(
          {.segment = static_cast<std::int32_t>(index),
           .head = static_cast<std::int32_t>(index) % static_cast<int>(num_kv_heads),
           .token = static_cast<std::int32_t>(token),
           .tokens = static_cast<std::int32_t>(std::min(tile_tokens, segment.count - token))});
    }
  }
  std::stable_sort(items.begin(), items.end(), [&](const PrefillItem& a, const PrefillItem& b) {
    return visible_keys(segments[static_cast<std::size_t>(a.segment)], a) >
           visible_keys(segments[static_cast<std::size_t>(b.segment)], b);
  });
}

}  // namespace moa_rt::cuda
