// Attention over per-head spans: a list of work for all sequences of a step, spread over the
// threads.
#pragma once

#include "core/tensor.h"
#include "cpu/context.h"
#include "cpu/kv_rows.h"
#include "ops/backend.h"

namespace moa_rt {

// See Backend::attention.
void cpu_attention(const CpuContext& cpu, const Backend::AttentionArgs& args, const Tensor& qkv,
                   Tensor& out);

struct AttentionJob {
  const CpuContext& cpu;
  const Backend::AttentionArgs& args;
  QkvRow row;
  float scale;
  const Tensor& qkv;
  Tensor& out;
};

// decode_attention.cc: one chunk of slots of a slice of one row, and the merge of its chunks in
// order.
std::int64_t decode_chunks(const AttentionJob& job, const SequenceSlice& slice, std::int64_t head);
void decode_item(const AttentionJob& job, const AttentionItem& item);
void merge_chunks(const AttentionJob& job, std::int64_t slice, std::int64_t head);

// prefill_attention.cc: one tile of query positions of a longer slice.
void prefill_item(const AttentionJob& job, const AttentionItem& item, int thread);

}  // namespace moa_rt
