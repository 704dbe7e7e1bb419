// Attention of slices of one row: mask-free over the filled slots of each head, since after
// appending position p the cache holds exactly what the query at p may see. Slots are cut into
// chunks at fixed multiples of kChunkSlots, so a sequence's result does not depend on its
// neighbours or the threads.
#include <algorithm>
#include <cmath>

#include "cpu/attention.h"

namespace moa_rt {

std::int64_t decode_chunks(const AttentionJob& job, const SequenceSlice& slice, std::int64_t head) {
  const HeadSpan& span = slice.cache->layout().head_span(job.args.layer, head);
  return (filled_slots(span, slice.position + 1) + kChunkSlots - 1) / kChunkSlots;
}

void decode_item(const AttentionJob& job, const AttentionItem& item) {
  const SequenceSlice& slice = job.args.slices[static_cast<std::size_t>(item.slice)];
  const HeadSegment segment = slice.cache->segment(job.args.layer, item.kv_head);
  const DType dtype = slice.cache->layout().dtype();
  const std::int64_t first = item.index * kChunkSlots;
  const std::int64_t offset = first * job.row.head_dim * size_of(dtype);
  const std::int64_t filled = filled_slots(segment.head, slice.position + 1);
  job.cpu.kernels.decode_chunk(
      {.queries = job.qkv.data<float>() + slice.row * job.row.width + job.row.query(item.kv_head),
       .group = job.row.group,
       .head_dim = job.row.head_dim,
       .keys = segment.keys + offset,
       .values = segment.values + offset,
       .count = std::min(kChunkSlots, filled - first),
       .bf16 = dtype == DType::kBF16,
       .scale = job.scale,
       .partial = job.cpu.workspace.partial(item.slice, item.kv_head, item.index)});
}

// Softmax over all chunks from (max, sum, weighted values) of each, in order of slots.
void merge_chunks(const AttentionJob& job, std::int64_t slice_index, std::int64_t head) {
  const SequenceSlice& slice = job.args.slices[static_cast<std::size_t>(slice_index)];
  const std::int64_t head_dim = job.row.head_dim;
  const std::int64_t stride = head_dim + 2;
  const std::int64_t chunks = decode_chunks(job, slice, head);
  float* out_row = job.out.data<float>() + slice.row * job.args.shape.num_query_heads * head_dim +
                   job.row.query(head);
  for (std::int64_t g = 0; g < job.row.group; ++g) {
    float* out = out_row + g * head_dim;
    const auto partial = [&](std::int64_t chunk) {
      return job.cpu.workspace.partial(slice_index, head, chunk) + g * stride;
    };
    float max = partial(0)[0];
    for (std::int64_t c = 1; c < chunks; ++c) max = std::max(max, partial(c)[0]);
    float sum = 0.0f;
    std::fill_n(out, head_dim, 0.0f);
    for (std::int64_t c = 0; c < chunks; ++c) {
      const float* chunk = partial(c);
      const float factor = std::exp(chunk[0] - max);
      sum += factor * chunk[1];
      for (std::int64_t d = 0; d < head_dim; ++d) out[d] += factor * chunk[2 + d];
    }
    const float inverse = 1.0f / sum;
    for (std::int64_t d = 0; d < head_dim; ++d) out[d] *= inverse;
  }
}

}  // namespace moa_rt
