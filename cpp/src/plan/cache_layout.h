// Where each (layer, KV head) lives in the one allocation of a sequence, to the byte.
#pragma once

#include <cstdint>
#include <vector>

#include "moa_rt/plan.h"
#include "moa_rt/span.h"
#include "moa_rt/types.h"

namespace moa_rt {

// Segments follow each other without gaps: layer by layer, head by head, keys (span, head_dim) then
// values (span, head_dim), row-major.
class CacheLayout {
 public:
  CacheLayout() = default;
  // spans[layer][kv_head]; every row of equal length. Throws ArgumentError for a window below 1 and
  // ResourceError if the total does not fit 63 bits.
  CacheLayout(const std::vector<std::vector<HeadSpan>>& spans, std::int64_t head_dim, DType dtype);

  std::int64_t num_layers() const { return num_layers_; }
  std::int64_t num_kv_heads() const { return num_kv_heads_; }
  std::int64_t head_dim() const { return head_dim_; }
  DType dtype() const { return dtype_; }

  const HeadSpan& head_span(std::int64_t layer, std::int64_t head) const {
    return spans_[index(layer, head)];
  }
  // Byte offsets of a head's first key and first value.
  std::int64_t key_offset(std::int64_t layer, std::int64_t head) const {
    return offsets_[index(layer, head)];
  }
  std::int64_t value_offset(std::int64_t layer, std::int64_t head) const {
    return key_offset(layer, head) + head_span(layer, head).span() * head_dim_ * size_of(dtype_);
  }
  std::int64_t layer_bytes(std::int64_t layer) const;
  std::int64_t total_bytes() const { return total_bytes_; }
  std::int64_t min_span() const { return min_span_; }  // over all heads

 private:
  std::size_t index(std::int64_t layer, std::int64_t head) const {
    return static_cast<std::size_t>(layer * num_kv_heads_ + head);
  }
  std::int64_t num_layers_ = 0;
  std::int64_t num_kv_heads_ = 0;
  std::int64_t head_dim_ = 0;
  DType dtype_ = DType::kF32;
  std::vector<HeadSpan> spans_;
  std::vector<std::int64_t> offsets_;
  std::int64_t total_bytes_ = 0;
  std::int64_t min_span_ = 0;
};

}  // namespace moa_rt
