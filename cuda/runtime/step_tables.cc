#include "cuda/runtime/step_tables.h"

#include <algorithm>
#include <cstring>

#include "cuda/attention/schedule.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

template <typename T>
std::int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<std::int64_t>(values.size() * sizeof(T));
}

bool same(const std::vector<Segment>& a, const std::vector<Segment>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Segment)) == 0);
}

}  // namespace

void StepTables::set_rows(std::span<const SequenceSlice> slices) {
  const auto unchanged = [](const Row& row, const SequenceSlice& slice) {
    return row == Row{slice.row, slice.count, slice.position};
  };
  if (std::ranges::equal(rows_, slices, unchanged)) return;
  rows_.clear();
  row_values_.clear();
  for (const SequenceSlice& slice : slices) {
    for (std::int64_t i = 0; i < slice.count; ++i) {
      row_values_.push_back(static_cast<std::int32_t>(slice.position + i));
    }
  }
  uploader_.upload(workspace_ + layout_.positions, row_values_.data(), bytes_of(row_values_));
  row_values_.clear();
  for (std::size_t index = 0; index < slices.size(); ++index) {
    row_values_.insert(row_values_.end(), static_cast<std::size_t>(slices[index].count),
                       static_cast<std::int32_t>(index));
  }
  uploader_.upload(workspace_ + layout_.row_slices, row_values_.data(), bytes_of(row_values_));
  for (const SequenceSlice& slice : slices) {
    rows_.push_back({slice.row, slice.count, slice.position});
  }
}

void StepTables::make_segments(const AttentionShape& shape, std::int64_t layer,
                               std::span<const SequenceSlice> slices) {
  segments_.clear();
  for (const SequenceSlice& slice : slices) {
    for (std::int64_t head = 0; head < shape.num_kv_heads; ++head) {
      const HeadSegment source = slice.cache->segment(layer, head);
      Segment segment{.keys = source.keys,
                      .sink = static_cast<std::int32_t>(source.head.sink),
                      .window = static_cast<std::int32_t>(source.head.window),
                      .row = static_cast<std::int32_t>(slice.row),
                      .count = static_cast<std::int32_t>(slice.count)};
      if (slice.count == 1) {
        const std::int64_t length = slice.position + 1;
        segment.sure = static_cast<std::int32_t>(filled_surely(source.head, length));
        segment.bound = static_cast<std::int32_t>(filled_bound(source.head, length));
      } else {
        segment.position = static_cast<std::int32_t>(slice.position);
      }
      segments_.push_back(segment);
    }
  }
}

StepTables::Layer StepTables::layer(const AttentionShape& shape, std::int64_t layer,
                                    std::span<const SequenceSlice> slices) {
  make_segments(shape, layer, slices);
  const auto copy = static_cast<std::size_t>(layer % layout_.table_copies);
  std::byte* const segments = workspace_ + layout_.segments +
                              static_cast<std::int64_t>(copy) * layout_.max_segments *
                                  static_cast<std::int64_t>(sizeof(Segment));
  std::byte* const items = workspace_ + layout_.decode_items +
                           static_cast<std::int64_t>(copy) * layout_.max_decode_items *
                               static_cast<std::int64_t>(sizeof(DecodeItem));
  LayerTable& table = layers_[copy];
  if (!same(table.segments, segments_)) {
    if (static_cast<std::int64_t>(segments_.size()) > layout_.max_segments) {
      throw InternalError("cuda: more sequences in a step than were reserved for");
    }
    table.segments.clear();
    table.launches.clear();
    uploader_.upload(segments, segments_.data(), bytes_of(segments_));
    schedule(shape, table.launches);
    uploader_.upload(items, decode_items_.data(), bytes_of(decode_items_));
    table.segments = segments_;
  }
  return {.segments = reinterpret_cast<const Segment*>(segments),
          .decode = reinterpret_cast<const DecodeItem*>(items),
          .launches = table.launches};
}

// As few launches as the room for partial results allows, each of whole sequences.
void StepTables::schedule(const AttentionShape& shape, std::vector<DecodeLaunch>& launches) {
  const std::int64_t group = shape.num_query_heads / shape.num_kv_heads;
  const auto heads = static_cast<std::size_t>(shape.num_kv_heads);
  const std::size_t sequences = segments_.size() / heads;
  decode_items_.clear();
  const auto step = static_cast<std::size_t>(layout_.sequences_per_launch);
  for (std::size_t first = 0; first < sequences; first += step) {
    const std::size_t count = std::min(step, sequences - first);
    const auto part = std::span(segments_).subspan(first * heads, count * heads);
    const std::int64_t partials =
        schedule_decode(part, shape.num_kv_heads, group, slots_, launch_items_);
    if (partials > layout_.max_partials) throw InternalError("cuda: decode schedule too long");
    if (launch_items_.empty()) continue;
    launches.push_back({.first = static_cast<std::int64_t>(decode_items_.size()),
                        .count = static_cast<std::int64_t>(launch_items_.size())});
    decode_items_.insert(decode_items_.end(), launch_items_.begin(), launch_items_.end());
  }
  if (static_cast<std::int64_t>(decode_items_.size()) > layout_.max_decode_items) {
    throw InternalError("cuda: decode schedule too long");
  }
}

std::int64_t StepTables::set_prefill(const AttentionShape& shape) {
  schedule_prefill(segments_, shape.num_kv_heads, shape.num_query_heads / shape.num_kv_heads,
                   kPrefillTileRows, prefill_items_);
  const auto count = static_cast<std::int64_t>(prefill_items_.size());
  if (count > layout_.max_prefill_items) throw InternalError("cuda: prefill schedule too long");
  uploader_.upload(workspace_ + layout_.prefill_items, prefill_items_.data(),
                   bytes_of(prefill_items_));
  return count;
}

}  // namespace moa_rt::cuda
