#include "plan/cache_layout.h"

#include <algorithm>
#include <limits>
#include <string>

#include "core/checked.h"
#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

void check_shape(const std::vector<std::vector<HeadSpan>>& spans, std::int64_t head_dim) {
  if (spans.empty() || spans[0].empty()) {
    throw ArgumentError(
        describe({.item = "cache layout", .got = "no heads", .want = "at least one"}));
  }
  if (head_dim < 1) {
    throw ArgumentError(describe({.item = "cache layout",
                                  .field = "head_dim",
                                  .got = std::to_string(head_dim),
                                  .want = "at least 1"}));
  }
}

void check_head(const HeadSpan& head, std::size_t layer, std::size_t index) {
  if (head.sink >= 0 && head.window >= 1) return;
  throw ArgumentError(
      describe({.item = "layer " + std::to_string(layer) + ", KV head " + std::to_string(index),
                .field = "sink + window",
                .got = std::to_string(head.sink) + " + " + std::to_string(head.window),
                .want = "a sink of at least 0 and a window of at least 1"}));
}

CheckedSize head_bytes(const HeadSpan& head, std::int64_t head_dim, DType dtype) {
  const auto size = [](std::int64_t value) {
    return CheckedSize(static_cast<std::uint64_t>(value));
  };
  return (size(head.sink) + size(head.window)) * size(2) * size(head_dim) * size(size_of(dtype));
}

}  // namespace

CacheLayout::CacheLayout(const std::vector<std::vector<HeadSpan>>& spans, std::int64_t head_dim,
                         DType dtype)
    : head_dim_(head_dim), dtype_(dtype) {
  check_shape(spans, head_dim);
  num_layers_ = static_cast<std::int64_t>(spans.size());
  num_kv_heads_ = static_cast<std::int64_t>(spans[0].size());
  spans_.reserve(spans.size() * spans[0].size());
  offsets_.reserve(spans_.capacity());
  min_span_ = std::numeric_limits<std::int64_t>::max();
  CheckedSize total = 0;
  for (std::size_t layer = 0; layer < spans.size(); ++layer) {
    if (spans[layer].size() != spans[0].size()) {
      throw ArgumentError(describe({.item = "layer " + std::to_string(layer),
                                    .field = "KV heads",
                                    .got = std::to_string(spans[layer].size()),
                                    .want = std::to_string(spans[0].size()) + " as in layer 0"}));
    }
    for (std::size_t head = 0; head < spans[layer].size(); ++head) {
      const HeadSpan& span = spans[layer][head];
      check_head(span, layer, head);
      offsets_.push_back(static_cast<std::int64_t>(total.value()));
      total = total + head_bytes(span, head_dim, dtype);
      if (!total.valid() ||
          total.value() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        throw ResourceError(describe({.item = "cache layout",
                                      .field = "bytes",
                                      .got = "more than 2^63 - 1",
                                      .want = "a size that fits memory"}));
      }
      spans_.push_back(span);
      min_span_ = std::min(min_span_, span.span());
    }
  }
  total_bytes_ = static_cast<std::int64_t>(total.value());
}

std::int64_t CacheLayout::layer_bytes(std::int64_t layer) const {
  const std::int64_t end = layer + 1 < num_layers_ ? key_offset(layer + 1, 0) : total_bytes_;
  return end - key_offset(layer, 0);
}

}  // namespace moa_rt
