// The tables of a decode loop on the device: of every row its slots, of every layer the work list
// of attention. Rebuilt only where a row changes or outgrows the lengths its work list serves.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/attention/attention.h"
#include "cuda/runtime/loop_layout.h"
#include "cuda/runtime/uploader.h"

namespace moa_rt::cuda {

class LoopTables {
 public:
  // Idle rows attend over `padding`, a cache of one slot a head.
  LoopTables(const LoopLayout& layout, std::byte* memory, const AttentionShape& shape,
             std::int64_t slots, const KVCache& padding, Uploader& uploader);

  // From the next prepare() on the row appends to the cache at `position`; nullptr: it is idle.
  void set_row(std::int64_t row, const KVCache* cache, std::int64_t position, bool keep);
  void move_row(std::int64_t from, std::int64_t to);
  // Brings the device up to date for a step of rows [0, rows).
  void prepare(std::int64_t rows);
  // After a step: busy rows stand one position further.
  void advance(std::int64_t rows);

  // Segments of a cache at layout.taken.
  const Segment* upload_segments(const KVCache& cache);

  const std::int32_t* tokens() const { return at<std::int32_t>(layout_.tokens); }
  const std::int32_t* positions() const { return at<std::int32_t>(layout_.positions); }
  const std::int32_t* row_slices() const { return at<std::int32_t>(layout_.row_slices); }
  const std::int64_t* row_index() const { return at<std::int64_t>(layout_.row_index); }
  // Of row r and head h: [r * stride + h].
  const Segment* segments(std::int64_t layer) const {
    return at<Segment>(layout_.segments) + layer * layout_.kv_heads;
  }
  std::byte* kept(std::int64_t layer) const {
    return memory_ + layout_.kept + layer * layout_.kv_heads * layout_.head_bytes;
  }
  std::int64_t stride() const { return layout_.heads; }

  // Attention of a layer over rows [0, rows) is this many launches; each starts at a fixed place.
  std::int64_t launches(std::int64_t rows) const {
    return (rows + layout_.rows_per_launch - 1) / layout_.rows_per_launch;
  }
  const DecodeItem* items(std::int64_t layer, std::int64_t launch) const {
    return at<DecodeItem>(layout_.items) +
           (layer * layout_.rows + launch * layout_.rows_per_launch) * layout_.items_per_row;
  }
  std::int32_t item_count(std::int64_t layer, std::int64_t launch) const {
    return counts_[static_cast<std::size_t>(layer * max_launches_ + launch)];
  }

 private:
  struct Row {
    const KVCache* cache = nullptr;
    std::int64_t position = 0;
    bool keep = false;
    bool changed = true;
    std::int64_t serves_until = 0;  // the longest length its segments serve
  };
  template <typename T>
  T* at(std::int64_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }
  void fill_segments(const KVCache& cache, std::int64_t row, std::int64_t length, bool keep,
                     Segment* out) const;
  void refresh(std::int64_t row);
  void schedule(std::int64_t launch, std::int64_t rows);

  LoopLayout layout_;
  std::byte* memory_;
  AttentionShape shape_;
  std::int64_t slots_;
  const KVCache& padding_;
  Uploader& uploader_;
  std::int64_t max_launches_;
  std::int64_t prepared_rows_ = 0;
  std::vector<Row> rows_;
  std::vector<Segment> segments_;     // (R, L, Hkv), as on the device
  std::vector<std::int32_t> counts_;  // (L, launches)
  std::vector<bool> stale_;           // (launches)
  std::vector<Segment> part_;
  std::vector<DecodeItem> items_;
};

}  // namespace moa_rt::cuda
