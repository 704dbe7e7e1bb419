// Attention of slices of several rows over (cache + slice). A tile of query positions, all heads of
// the group together, walks over tiles of keys that hold at least one visible pair; scores and
// weighted values are the same panel products as a matmul, the softmax is online (arXiv
// 1805.02867).
#include <algorithm>
#include <limits>

#include "cpu/attention.h"

namespace moa_rt {
namespace {

// Keys and values of consecutive positions, in the cache or in the slice itself.
struct KeyPiece {
  RowBlock keys;
  RowBlock values;
  std::int64_t position = 0;
  std::int64_t count = 0;

  const std::byte* row(const RowBlock& block, std::int64_t index) const {
    const std::int64_t element = block.format == RowFormat::kBf16 ? 2 : 4;
    return static_cast<const std::byte*>(block.rows) + index * block.stride * element;
  }
};

struct QueryTile {
  const AttentionJob& job;
  PrefillScratch scratch;
  HeadSpan head;
  std::int64_t position;   // of the first query
  std::int64_t positions;  // queries
  std::int64_t rows;       // positions * group
  std::int64_t out_width;  // head_dim rounded up to whole panels
};

RowFormat slice_format(const SequenceSlice& slice) {
  return slice.cache->layout().dtype() == DType::kBF16 ? RowFormat::kF32RoundedToBf16
                                                       : RowFormat::kF32;
}

void load_queries(const QueryTile& tile, const SequenceSlice& slice, std::int64_t kv_head) {
  const QkvRow& row = tile.job.row;
  const std::int64_t first = slice.row + tile.position - slice.position;
  const RowBlock queries{tile.job.qkv.data<float>() + first * row.width + row.query(kv_head),
                         row.width, slice_format(slice)};
  tile.job.cpu.kernels.copy_rows(queries, tile.positions, row.group * row.head_dim,
                                 tile.scratch.queries);
  std::fill_n(tile.scratch.max, tile.rows, -std::numeric_limits<float>::infinity());
  std::fill_n(tile.scratch.sum, tile.rows, 0.0f);
  std::fill_n(tile.scratch.out, tile.rows * tile.out_width, 0.0f);
}

// Folds keys [begin, begin + count) of a piece into the tile. Positions of one call lie all in the
// sink or all behind it.
void fold_keys(const QueryTile& tile, const KeyPiece& piece, std::int64_t begin,
               std::int64_t count) {
  const CpuKernels& kernels = tile.job.cpu.kernels;
  const PrefillScratch& scratch = tile.scratch;
  const std::int64_t head_dim = tile.job.row.head_dim;
  const std::int64_t panels = (count + kPanelRows - 1) / kPanelRows;
  const std::int64_t index = begin - piece.position;
  kernels.pack_keys({piece.row(piece.keys, index), piece.keys.stride, piece.keys.format}, count,
                    head_dim, scratch.keys);
  kernels.product_f32({.x = scratch.queries,
                       .x_stride = head_dim,
                       .rows = tile.rows,
                       .panels = scratch.keys,
                       .panel_stride = head_dim * kPanelRows,
                       .num_panels = panels,
                       .cols = head_dim,
                       .tile = scratch.scores,
                       .tile_stride = kTileKeys});
  const bool in_sink = begin < tile.head.sink;
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t query = tile.position + r / tile.job.row.group;
    const std::int64_t first =
        in_sink ? 0 : std::max<std::int64_t>(0, window_start(tile.head, query) - begin);
    const std::int64_t last = std::min(count, query + 1 - begin);
    float* scores = scratch.scores + r * kTileKeys;
    if (first >= last) {  // other queries of the tile see these keys
      std::fill_n(scores, panels * kPanelRows, 0.0f);
      continue;
    }
    kernels.softmax_row({.scores = scores,
                         .width = panels * kPanelRows,
                         .begin = first,
                         .end = last,
                         .scale = tile.job.scale,
                         .max = scratch.max + r,
                         .sum = scratch.sum + r,
                         .out = scratch.out + r * tile.out_width,
                         .out_width = tile.out_width});
  }
  kernels.pack_values({piece.row(piece.values, index), piece.values.stride, piece.values.format},
                      count, head_dim, scratch.values);
  kernels.product_f32({.x = scratch.scores,
                       .x_stride = kTileKeys,
                       .rows = tile.rows,
                       .panels = scratch.values,
                       .panel_stride = count * kPanelRows,
                       .num_panels = tile.out_width / kPanelRows,
                       .cols = count,
                       .tile = scratch.out,
                       .tile_stride = tile.out_width,
                       .accumulate = true});
}

// The part of a piece in [begin, end), tile by tile.
void fold_range(const QueryTile& tile, const KeyPiece& piece, std::int64_t begin,
                std::int64_t end) {
  begin = std::max(begin, piece.position);
  end = std::min(end, piece.position + piece.count);
  for (std::int64_t k = begin; k < end; k += kTileKeys) {
    fold_keys(tile, piece, k, std::min(kTileKeys, end - k));
  }
}

void fold_piece(const QueryTile& tile, const KeyPiece& piece) {
  const std::int64_t end = tile.position + tile.positions;
  const std::int64_t sink = tile.head.sink;
  fold_range(tile, piece, 0, std::min(sink, end));
  fold_range(tile, piece, std::max(sink, window_start(tile.head, tile.position)), end);
}

KeyPiece cache_piece(const HeadSegment& segment, std::int64_t head_dim, DType dtype,
                     const PositionRun& run) {
  const std::int64_t offset = run.slot * head_dim * size_of(dtype);
  const RowFormat format = dtype == DType::kBF16 ? RowFormat::kBf16 : RowFormat::kF32;
  return {{segment.keys + offset, head_dim, format},
          {segment.values + offset, head_dim, format},
          run.position,
          run.count};
}

KeyPiece slice_piece(const AttentionJob& job, const SequenceSlice& slice, std::int64_t kv_head) {
  const float* first = job.qkv.data<float>() + slice.row * job.row.width;
  const RowFormat format = slice_format(slice);
  return {{first + job.row.key(kv_head), job.row.width, format},
          {first + job.row.value(kv_head), job.row.width, format},
          slice.position,
          slice.count};
}

void store_out(const QueryTile& tile, const SequenceSlice& slice, std::int64_t kv_head) {
  const QkvRow& row = tile.job.row;
  const std::int64_t width = tile.job.args.shape.num_query_heads * row.head_dim;
  float* first = tile.job.out.data<float>() + (slice.row + tile.position - slice.position) * width +
                 row.query(kv_head);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const float inverse = 1.0f / tile.scratch.sum[r];
    const float* source = tile.scratch.out + r * tile.out_width;
    float* out = first + r / row.group * width + r % row.group * row.head_dim;
    for (std::int64_t d = 0; d < row.head_dim; ++d) out[d] = source[d] * inverse;
  }
}

}  // namespace

void prefill_item(const AttentionJob& job, const AttentionItem& item, int thread) {
  const SequenceSlice& slice = job.args.slices[static_cast<std::size_t>(item.slice)];
  const HeadSegment segment = slice.cache->segment(job.args.layer, item.kv_head);
  const std::int64_t tile_positions = prefill_tile_positions(job.args.shape);
  const std::int64_t first = item.index * tile_positions;
  const std::int64_t positions = std::min(tile_positions, slice.count - first);
  const std::int64_t head_dim = job.row.head_dim;
  const QueryTile tile{.job = job,
                       .scratch = job.cpu.workspace.prefill(thread),
                       .head = segment.head,
                       .position = slice.position + first,
                       .positions = positions,
                       .rows = positions * job.row.group,
                       .out_width = (head_dim + kPanelRows - 1) / kPanelRows * kPanelRows};
  load_queries(tile, slice, item.kv_head);
  const DType dtype = slice.cache->layout().dtype();
  for (const PositionRun& run : position_runs(segment.head, slice.position)) {
    fold_piece(tile, cache_piece(segment, head_dim, dtype, run));
  }
  fold_piece(tile, slice_piece(job, slice, item.kv_head));
  store_out(tile, slice, item.kv_head);
}

}  // namespace moa_rt
