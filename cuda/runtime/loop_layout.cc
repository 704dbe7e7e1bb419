#include "cuda/runtime/loop_layout.h"

#include <algorithm>

#include "cuda/sampling/sampling.h"
#include "moa_rt/span.h"

namespace moa_rt::cuda {

LoopLayout::LoopLayout(const BackendLimits& limits, const WorkspaceLayout& workspace)
    : rows(limits.max_sequences),
      layers(limits.num_layers),
      kv_heads(limits.attention.num_kv_heads),
      heads(layers * kv_heads),
      head_bytes(2 * limits.attention.head_dim * size_of(limits.dtype)),
      rows_per_launch(workspace.sequences_per_launch),
      items_per_row(workspace.max_decode_items / limits.max_sequences),
      most_seen(std::min(limits.max_seq_len, limits.vocab)) {
  const auto place = [this](std::int64_t& offset, std::int64_t count, std::size_t bytes) {
    offset = total_bytes;
    total_bytes += round_up(count * static_cast<std::int64_t>(bytes), 256);
  };
  place(tokens, rows, 4);
  place(positions, rows, 4);
  place(row_slices, rows, 4);
  place(row_index, rows, 8);
  place(states, rows, sizeof(RowState));
  place(lists, rows, static_cast<std::size_t>(RowLists(most_seen).bytes));
  results = total_bytes;
  top = results + rows * static_cast<std::int64_t>(sizeof(RowResult));
  total_bytes += round_up(
      rows * static_cast<std::int64_t>(sizeof(RowResult) + kMaxTop * sizeof(TopToken)), 256);
  place(segments, rows * heads, sizeof(Segment));
  place(taken, heads, sizeof(Segment));
  place(items, layers * rows * items_per_row, sizeof(DecodeItem));
  place(kept, rows * heads, static_cast<std::size_t>(head_bytes));
}

}  // namespace moa_rt::cuda
