#include "cuda/runtime/loop_tables.h"

#include <algorithm>
#include <numeric>

#include "cuda/attention/schedule.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

template <typename T>
std::int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<std::int64_t>(values.size() * sizeof(T));
}

}  // namespace

LoopTables::LoopTables(const LoopLayout& layout, std::byte* memory, const AttentionShape& shape,
                       std::int64_t slots, const KVCache& padding, Uploader& uploader)
    : layout_(layout),
      memory_(memory),
      shape_(shape),
      slots_(slots),
      padding_(padding),
      uploader_(uploader),
      max_launches_(launches(layout.rows)) {
  const auto rows = static_cast<std::size_t>(layout.rows);
  rows_.resize(rows);
  segments_.resize(rows * static_cast<std::size_t>(layout.heads));
  counts_.resize(static_cast<std::size_t>(layout.layers * max_launches_));
  stale_.resize(static_cast<std::size_t>(max_launches_), true);
  std::vector<std::int32_t> slices(rows);
  std::vector<std::int64_t> index(rows);
  std::iota(slices.begin(), slices.end(), 0);
  std::iota(index.begin(), index.end(), 0);
  uploader_.upload(memory_ + layout_.row_slices, slices.data(), bytes_of(slices));
  uploader_.upload(memory_ + layout_.row_index, index.data(), bytes_of(index));
}

void LoopTables::set_row(std::int64_t row, const KVCache* cache, std::int64_t position, bool keep) {
  rows_[static_cast<std::size_t>(row)] = {
      .cache = cache, .position = position, .keep = keep, .changed = true};
}

void LoopTables::move_row(std::int64_t from, std::int64_t to) {
  Row& source = rows_[static_cast<std::size_t>(from)];
  rows_[static_cast<std::size_t>(to)] = source;
  rows_[static_cast<std::size_t>(to)].changed = true;
  source = {};
}

void LoopTables::advance(std::int64_t rows) {
  for (Row& row : std::span(rows_).first(static_cast<std::size_t>(rows))) {
    if (row.cache != nullptr) ++row.position;
  }
}

void LoopTables::fill_segments(const KVCache& cache, std::int64_t row, std::int64_t length,
                               bool keep, Segment* out) const {
  for (std::int64_t layer = 0; layer < layout_.layers; ++layer) {
    for (std::int64_t head = 0; head < layout_.kv_heads; ++head) {
      const HeadSegment source = cache.segment(layer, head);
      *out++ = {.keys = source.keys,
                .sink = static_cast<std::int32_t>(source.head.sink),
                .window = static_cast<std::int32_t>(source.head.window),
                .row = static_cast<std::int32_t>(row),
                .count = 1,
                .sure = static_cast<std::int32_t>(filled_surely(source.head, length)),
                .bound = static_cast<std::int32_t>(filled_bound(source.head, length)),
                .keep = keep ? 1 : 0};
    }
  }
}

void LoopTables::refresh(std::int64_t index) {
  Row& row = rows_[static_cast<std::size_t>(index)];
  const KVCache& cache = row.cache != nullptr ? *row.cache : padding_;
  const std::int64_t length = row.position + 1;
  Segment* const segments = segments_.data() + index * layout_.heads;
  fill_segments(cache, index, length, row.keep, segments);
  const auto bytes = layout_.heads * static_cast<std::int64_t>(sizeof(Segment));
  uploader_.upload(memory_ + layout_.segments + index * bytes, segments, bytes);
  row.changed = false;
  row.serves_until = round_up(length, length_step(length));
  stale_[static_cast<std::size_t>(index / layout_.rows_per_launch)] = true;
}

void LoopTables::prepare(std::int64_t rows) {
  if (rows != prepared_rows_) {  // the last launch of either covers other rows now
    for (const std::int64_t end : {rows, prepared_rows_}) {
      if (end > 0) stale_[static_cast<std::size_t>((end - 1) / layout_.rows_per_launch)] = true;
    }
    prepared_rows_ = rows;
  }
  for (std::int64_t index = 0; index < rows; ++index) {
    const Row& row = rows_[static_cast<std::size_t>(index)];
    if (row.changed || row.position + 1 > row.serves_until) refresh(index);
  }
  for (std::int64_t launch = 0; launch < launches(rows); ++launch) {
    if (!stale_[static_cast<std::size_t>(launch)]) continue;
    schedule(launch, rows);
    stale_[static_cast<std::size_t>(launch)] = false;
  }
}

void LoopTables::schedule(std::int64_t launch, std::int64_t rows) {
  const std::int64_t first = launch * layout_.rows_per_launch;
  const std::int64_t end = std::min(first + layout_.rows_per_launch, rows);
  const std::int64_t group = shape_.num_query_heads / shape_.num_kv_heads;
  for (std::int64_t layer = 0; layer < layout_.layers; ++layer) {
    part_.clear();
    for (std::int64_t row = first; row < end; ++row) {
      const auto begin = segments_.begin() + row * layout_.heads + layer * layout_.kv_heads;
      part_.insert(part_.end(), begin, begin + layout_.kv_heads);
    }
    schedule_decode(part_, layout_.kv_heads, group, slots_, items_);
    const auto count = static_cast<std::int64_t>(items_.size());
    if (count > (end - first) * layout_.items_per_row) {
      throw InternalError("cuda: decode schedule too long");
    }
    uploader_.upload(const_cast<DecodeItem*>(items(layer, launch)), items_.data(),
                     bytes_of(items_));
    counts_[static_cast<std::size_t>(layer * max_launches_ + launch)] =
        static_cast<std::int32_t>(count);
  }
}

const Segment* LoopTables::upload_segments(const KVCache& cache) {
  part_.resize(static_cast<std::size_t>(layout_.heads));
  fill_segments(cache, 0, 1, false, part_.data());
  uploader_.upload(memory_ + layout_.taken, part_.data(), bytes_of(part_));
  return at<Segment>(layout_.taken);
}

}  // namespace moa_rt::cuda
