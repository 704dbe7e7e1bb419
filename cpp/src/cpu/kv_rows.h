// Rows of keys and values on their way from the fused qkv activations into the cache.
#pragma once

#include "core/tensor.h"
#include "cpu/context.h"
#include "ops/backend.h"

namespace moa_rt {

// Where the parts of a row of qkv (Hq heads of q, Hkv of k, Hkv of v) begin, in elements.
struct QkvRow {
  explicit QkvRow(const AttentionShape& shape)
      : head_dim(shape.head_dim),
        group(shape.num_query_heads / shape.num_kv_heads),
        keys_begin(shape.num_query_heads * shape.head_dim),
        values_begin(keys_begin + shape.num_kv_heads * shape.head_dim),
        width(values_begin + shape.num_kv_heads * shape.head_dim) {}

  // First of the group of query heads that reads KV head `head`.
  std::int64_t query(std::int64_t head) const { return head * group * head_dim; }
  std::int64_t key(std::int64_t head) const { return keys_begin + head * head_dim; }
  std::int64_t value(std::int64_t head) const { return values_begin + head * head_dim; }

  std::int64_t head_dim;
  std::int64_t group;
  std::int64_t keys_begin;
  std::int64_t values_begin;
  std::int64_t width;
};

// Writes the slice's k and v of one head to their slots, rounded to the cache's type. Of a slice
// longer than the window only the rows that stay are written, so that no slot is written twice.
void append_head(const CpuKernels& kernels, const QkvRow& row, const SequenceSlice& slice,
                 std::int64_t layer, std::int64_t head, const Tensor& qkv);

// See Backend::rope_append.
void cpu_rope_append(const CpuContext& cpu, const Backend::RopeArgs& args, Tensor& qkv);

}  // namespace moa_rt
