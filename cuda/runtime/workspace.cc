#include "cuda/runtime/workspace.h"

#include <algorithm>

#include "cuda/attention/attention.h"
#include "cuda/attention/schedule.h"
#include "cuda/runtime/matmul.h"
#include "moa_rt/span.h"

namespace moa_rt::cuda {
namespace {

// A batch whose partial results exceed this is attended in several launches.
constexpr std::int64_t kMaxPartialBytes = std::int64_t{128} << 20;
// Tables of more layers than fit here are uploaded again in every step.
constexpr std::int64_t kMaxTableBytes = std::int64_t{256} << 20;
// Where decode has a loop with tables of its own, few rows of one token are left to others.
constexpr std::int64_t kMaxTableBytesBesideLoop = std::int64_t{32} << 20;

}  // namespace

WorkspaceLayout::WorkspaceLayout(const BackendLimits& limits, std::int64_t slots) {
  const AttentionShape& shape = limits.attention;
  const std::int64_t group = shape.num_query_heads / shape.num_kv_heads;
  const std::int64_t query_tiles = (group + kQueriesPerItem - 1) / kQueriesPerItem;
  const std::int64_t sequence_chunks =
      query_tiles * max_chunks(shape.num_kv_heads, limits.max_seq_len, slots);
  const std::int64_t element = size_of(limits.dtype);
  const std::int64_t rows = limits.max_rows;

  sequences_per_launch =
      std::clamp<std::int64_t>(kMaxPartialBytes / (sequence_chunks * partial_bytes(shape.head_dim)),
                               1, limits.max_sequences);
  max_partials = sequences_per_launch * sequence_chunks;
  max_decode_items = limits.max_sequences * sequence_chunks;
  max_segments = limits.max_sequences * shape.num_kv_heads;
  const std::int64_t tile_tokens =
      kPrefillTileRows / std::min<std::int64_t>(group, kPrefillTileRows);
  max_prefill_items = shape.num_kv_heads * (rows / tile_tokens + limits.max_sequences + 1);
  const std::int64_t table_bytes =
      max_decode_items * static_cast<std::int64_t>(sizeof(DecodeItem)) +
      max_segments * static_cast<std::int64_t>(sizeof(Segment));
  has_loop = limits.vocab > 0 && limits.num_layers * table_bytes <= kMaxTableBytes;
  table_copies = std::clamp<std::int64_t>(
      (has_loop ? kMaxTableBytesBesideLoop : kMaxTableBytes) / table_bytes, 1, limits.num_layers);

  const auto place = [this](std::int64_t& offset, std::int64_t bytes) {
    offset = total_bytes;
    total_bytes += round_up(bytes, 256);
  };
  place(tokens, rows * 4);
  place(positions, rows * 4);
  place(row_slices, rows * 4);
  place(row_index, rows * 8);
  place(targets, rows * 4);
  place(logprobs, rows * static_cast<std::int64_t>(sizeof(RowLogprob)));
  place(converted, rows * limits.max_matrix_cols * element);
  place(chunk_queries, shape.num_query_heads * rows * shape.head_dim * element);
  place(chunk_keys, shape.num_kv_heads * rows * shape.head_dim * element);
  place(chunk_values, shape.num_kv_heads * rows * shape.head_dim * element);
  place(partial_sums, max_partials * kQueriesPerItem * shape.head_dim * 4);
  place(partial_states, max_partials * kQueriesPerItem * 2 * 4);
  place(counters, max_partials * 4);
  place(segments, table_copies * max_segments * static_cast<std::int64_t>(sizeof(Segment)));
  place(decode_items,
        table_copies * max_decode_items * static_cast<std::int64_t>(sizeof(DecodeItem)));
  place(prefill_items, max_prefill_items * static_cast<std::int64_t>(sizeof(PrefillItem)));
  place(blas, BlasMatmul::kWorkspaceBytes);
}

}  // namespace moa_rt::cuda
