#include "cpu/workspace.h"

#include <algorithm>
#include <string>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kFloat = 4;  // bytes

std::int64_t ceil_div(std::int64_t value, std::int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

std::int64_t padded_head_dim(const AttentionShape& shape) {
  return ceil_div(shape.head_dim, kPanelRows) * kPanelRows;
}

}  // namespace

std::int64_t prefill_tile_positions(const AttentionShape& shape) {
  const std::int64_t group = shape.num_query_heads / shape.num_kv_heads;
  // 192 rows up to head_dim 64, fewer beyond: 48 KiB of queries.
  const std::int64_t rows = std::min<std::int64_t>(192, 12288 / shape.head_dim);
  return std::max<std::int64_t>(1, rows / group);
}

Workspace::Workspace(const BackendLimits& limits, int num_threads, std::int64_t bf16_operand_size)
    : limits_(limits) {
  const AttentionShape& shape = limits.attention;
  const std::int64_t group = shape.num_query_heads / shape.num_kv_heads;
  const std::int64_t positions = prefill_tile_positions(shape);
  const std::int64_t even_cols = ceil_div(limits.max_matrix_cols, 2) * 2;
  max_chunks_ = ceil_div(limits.max_seq_len, kChunkSlots);
  partial_floats_ = group * (shape.head_dim + 2);

  if (limits.dtype == DType::kBF16) {
    operand_ = take(limits.max_rows * even_cols * bf16_operand_size);
  }
  const std::int64_t heads = limits.max_sequences * shape.num_kv_heads;
  const std::int64_t query_tiles =
      (limits.max_rows / positions + limits.max_sequences) * shape.num_kv_heads;
  items_ =
      take((heads * max_chunks_ + query_tiles) * static_cast<std::int64_t>(sizeof(AttentionItem)));
  partials_ = take(heads * max_chunks_ * partial_floats_ * kFloat);

  threads_ = bytes_;
  bytes_ = 0;
  const std::int64_t rows = positions * group;
  widen_ = take(limits.dtype == DType::kBF16 ? kWidenScratch * kFloat : 0);
  tile_ = take(kTileFloats * kFloat);
  queries_ = take(rows * shape.head_dim * kFloat);
  scores_ = take(rows * kTileKeys * kFloat);
  out_ = take(rows * padded_head_dim(shape) * kFloat);
  state_ = take(2 * rows * kFloat);
  keys_ = take(kTileKeys * shape.head_dim * kFloat);
  values_ = take(kTileKeys * padded_head_dim(shape) * kFloat);
  thread_bytes_ = bytes_;
  bytes_ = threads_ + num_threads * thread_bytes_;
}

std::int64_t Workspace::take(std::int64_t bytes) {
  const std::int64_t offset = bytes_;
  const auto alignment = static_cast<std::int64_t>(kAlignment);
  bytes_ += ceil_div(bytes, alignment) * alignment;
  return offset;
}

float* Workspace::thread_floats(int thread, std::int64_t offset) const {
  return reinterpret_cast<float*>(storage_.data() + threads_ + thread * thread_bytes_ + offset);
}

PrefillScratch Workspace::prefill(int thread) const {
  const AttentionShape& shape = limits_.attention;
  const std::int64_t rows =
      prefill_tile_positions(shape) * (shape.num_query_heads / shape.num_kv_heads);
  PrefillScratch scratch;
  scratch.queries = thread_floats(thread, queries_);
  scratch.scores = thread_floats(thread, scores_);
  scratch.out = thread_floats(thread, out_);
  scratch.max = thread_floats(thread, state_);
  scratch.sum = scratch.max + rows;
  scratch.keys = thread_floats(thread, keys_);
  scratch.values = thread_floats(thread, values_);
  return scratch;
}

AttentionItem* Workspace::items() const {
  return reinterpret_cast<AttentionItem*>(storage_.data() + items_);
}

float* Workspace::partial(std::int64_t slice, std::int64_t kv_head, std::int64_t chunk) const {
  const std::int64_t head = slice * limits_.attention.num_kv_heads + kv_head;
  return reinterpret_cast<float*>(storage_.data() + partials_) +
         (head * max_chunks_ + chunk) * partial_floats_;
}

void Workspace::require(const char* field, std::int64_t got, std::int64_t limit) const {
  if (storage_.data() != nullptr && got <= limit) return;
  throw InternalError(
      describe({.item = "cpu workspace",
                .field = field,
                .got = std::to_string(got),
                .want = storage_.data() == nullptr ? "reserve() first"
                                                   : "at most " + std::to_string(limit)}));
}

void Workspace::require_rows(std::int64_t rows) const { require("rows", rows, limits_.max_rows); }

void Workspace::require_cols(std::int64_t cols) const {
  require("matrix cols", cols, limits_.max_matrix_cols);
}

void Workspace::require_attention(const AttentionShape& shape, std::int64_t rows,
                                  std::int64_t slices) const {
  require_rows(rows);
  require("slices", slices, limits_.max_sequences);
  const AttentionShape& reserved = limits_.attention;
  if (shape.num_query_heads != reserved.num_query_heads ||
      shape.num_kv_heads != reserved.num_kv_heads || shape.head_dim != reserved.head_dim) {
    throw InternalError(describe({.item = "cpu workspace",
                                  .field = "attention shape",
                                  .got = "another one",
                                  .want = "the one of reserve()"}));
  }
}

void Workspace::require_length(std::int64_t length) const {
  require("sequence length", length, limits_.max_seq_len);
}

}  // namespace moa_rt
