// Products of activation rows with weight panels. Included by one file per instruction set, after
// its simd_*.h; everything lives in an anonymous namespace (see kernels.h).
//
// Every output is one accumulator that takes its products in order of k, whatever the number of
// rows or panels computed beside it: that makes a row's result independent of its batch, bit for
// bit.
#pragma once

#include "cpu/kernels.h"

namespace moa_rt {
namespace {

inline constexpr int kLineVectors = static_cast<int>(kPanelRows) / Simd::kWidth;

// float32 weights: a step is one k.
struct F32Step {
  using X = float;
  using W = float;
  using Activation = Simd::F;
  using Weight = Simd::F;
  static constexpr int kCols = 1;
  static Activation broadcast(const X* x) { return Simd::set1(*x); }
  static Weight load(const W* line, int vector) { return Simd::load(line + vector * Simd::kWidth); }
  static Simd::F multiply(const Activation& a, const Weight& b, Simd::F sum) {
    return Simd::fma(a, b, sum);
  }
};

// bf16 weights widened on the fly: a step is a pair of k, taken one after the other.
struct Bf16Step {
  using X = float;
  using W = std::uint16_t;
  struct Activation {
    Simd::F even, odd;
  };
  struct Weight {
    Simd::F even, odd;
  };
  static constexpr int kCols = 2;
  static Activation broadcast(const X* x) { return {Simd::set1(x[0]), Simd::set1(x[1])}; }
  static Weight load(const W* line, int vector) {
    Weight weight;
    Simd::load_pairs(line + vector * 2 * Simd::kWidth, weight.even, weight.odd);
    return weight;
  }
  static Simd::F multiply(const Activation& a, const Weight& b, Simd::F sum) {
    return Simd::fma(a.odd, b.odd, Simd::fma(a.even, b.even, sum));
  }
};

// Where one register tile reads and writes.
template <class Step>
struct TileArgs {
  const typename Step::X* x;
  std::int64_t x_stride;
  const typename Step::W* panels;
  std::int64_t panel_stride;
  std::int64_t cols;
  float* tile;
  std::int64_t tile_stride;
  bool accumulate;
};

// Rows x Panels * 16 outputs in registers. Ahead: bytes to prefetch in front of each panel, 0 =
// none.
template <class Step, int Rows, int Panels, int Ahead>
void register_tile(const TileArgs<Step>& args) {
  constexpr std::int64_t kLine = kPanelRows * Step::kCols;
  Simd::F sum[Rows][Panels * kLineVectors];
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Panels * kLineVectors; ++v) {
      sum[r][v] = args.accumulate ? Simd::load(args.tile + r * args.tile_stride + v * Simd::kWidth)
                                  : Simd::zero();
    }
  }
  const typename Step::W* line = args.panels;
  const typename Step::X* x = args.x;
  for (std::int64_t k = 0; k < args.cols; k += Step::kCols) {
    typename Step::Weight weight[Panels * kLineVectors];
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) {
      const typename Step::W* panel_line = line + p * args.panel_stride;
      if constexpr (Ahead > 0) {
        __builtin_prefetch(reinterpret_cast<const char*>(panel_line) + Ahead);
      }
#pragma GCC unroll 4
      for (int v = 0; v < kLineVectors; ++v) {
        weight[p * kLineVectors + v] = Step::load(panel_line, v);
      }
    }
#pragma GCC unroll 32
    for (int r = 0; r < Rows; ++r) {
      const typename Step::Activation a = Step::broadcast(x + r * args.x_stride);
#pragma GCC unroll 8
      for (int v = 0; v < Panels * kLineVectors; ++v) {
        sum[r][v] = Step::multiply(a, weight[v], sum[r][v]);
      }
    }
    line += kLine;
    x += Step::kCols;
  }
#pragma GCC unroll 32
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Panels * kLineVectors; ++v) {
      Simd::store(args.tile + r * args.tile_stride + v * Simd::kWidth, sum[r][v]);
    }
  }
}

// All panels for one group of rows: Panels at a time, then two, then one.
template <class Step, int Rows, int Panels, int Ahead>
void row_group(TileArgs<Step> args, std::int64_t num_panels) {
  std::int64_t p = 0;
  const auto advance = [&](std::int64_t panels) {
    p += panels;
    args.panels += panels * args.panel_stride;
    args.tile += panels * kPanelRows;
  };
  for (; p + Panels <= num_panels; advance(Panels)) {
    register_tile<Step, Rows, Panels, Ahead>(args);
  }
  if constexpr (Panels > 2) {
    for (; p + 2 <= num_panels; advance(2)) register_tile<Step, Rows, 2, Ahead>(args);
  }
  for (; p < num_panels; advance(1)) register_tile<Step, Rows, 1, Ahead>(args);
}

template <class Step>
TileArgs<Step> skip_rows(TileArgs<Step> args, std::int64_t rows) {
  args.x += rows * args.x_stride;
  args.tile += rows * args.tile_stride;
  return args;
}

// Few rows: every panel is read once from memory and kept in L1 for the rows after the first group.
// About eight accumulators hide the latency of a fused multiply-add.
inline constexpr int kAhead = 1024;

constexpr int stream_panels(int rows) {
  const int panels = 8 / (rows * kLineVectors);
  return panels < 1 ? 1 : panels;
}

template <class Step>
void stream_rows(TileArgs<Step> args, std::int64_t rows, std::int64_t num_panels) {
  if (rows == 1) return row_group<Step, 1, stream_panels(1), kAhead>(args, num_panels);
  if (rows == 2) return row_group<Step, 2, stream_panels(2), kAhead>(args, num_panels);
  if (rows == 3) return row_group<Step, 3, stream_panels(3), kAhead>(args, num_panels);
  for (std::int64_t p = 0; p < num_panels; ++p) {
    TileArgs<Step> panel = args;
    panel.panels += p * args.panel_stride;
    panel.tile += p * kPanelRows;
    std::int64_t r = 0;
    for (; r + 4 <= rows; r += 4, panel = skip_rows(panel, 4)) {
      register_tile<Step, 4, 1, kAhead>(panel);
    }
    for (; r < rows; ++r, panel = skip_rows(panel, 1)) register_tile<Step, 1, 1, 0>(panel);
  }
}

// Many rows: full register tiles, then 4, 2 and 1 rows.
template <class Step, int Rows, int Panels>
void tile_rows(TileArgs<Step> args, std::int64_t rows, std::int64_t num_panels) {
  for (; rows >= Rows; rows -= Rows, args = skip_rows(args, Rows)) {
    row_group<Step, Rows, Panels, 0>(args, num_panels);
  }
  for (; rows >= 4; rows -= 4, args = skip_rows(args, 4)) {
    row_group<Step, 4, Panels, 0>(args, num_panels);
  }
  for (; rows >= 2; rows -= 2, args = skip_rows(args, 2)) {
    row_group<Step, 2, Panels, 0>(args, num_panels);
  }
  if (rows == 1) row_group<Step, 1, Panels, 0>(args, num_panels);
}

template <class Step>
TileArgs<Step> whole_product(const PanelProduct& product) {
  return {static_cast<const typename Step::X*>(product.x),
          product.x_stride,
          static_cast<const typename Step::W*>(product.panels),
          product.panel_stride,
          product.cols,
          product.tile,
          product.tile_stride,
          product.accumulate};
}

// Even blocks of at most kBlockCols columns, each a multiple of two.
inline std::int64_t block_cols(std::int64_t cols) {
  const std::int64_t blocks = (cols + kBlockCols - 1) / kBlockCols;
  return ((cols + blocks - 1) / blocks + 1) / 2 * 2;
}

void widen_panels(const PanelProduct& product, std::int64_t begin, std::int64_t cols) {
  for (std::int64_t p = 0; p < product.num_panels; ++p) {
    const std::uint16_t* source = static_cast<const std::uint16_t*>(product.panels) +
                                  p * product.panel_stride + begin * kPanelRows;
    float* out = product.scratch + p * cols * kPanelRows;
    for (std::int64_t k = 0; k < cols; k += 2) {
#pragma GCC unroll 4
      for (int v = 0; v < kLineVectors; ++v) {
        Simd::F even, odd;
        Simd::load_pairs(source + v * 2 * Simd::kWidth, even, odd);
        Simd::store(out + v * Simd::kWidth, even);
        Simd::store(out + kPanelRows + v * Simd::kWidth, odd);
      }
      source += 2 * kPanelRows;
      out += 2 * kPanelRows;
    }
  }
}

void product_f32(const PanelProduct& product) {
  TileArgs<F32Step> args = whole_product<F32Step>(product);
  if (product.rows <= kStreamRows) return stream_rows(args, product.rows, product.num_panels);
  const std::int64_t block = block_cols(product.cols);
  for (std::int64_t k = 0; k < product.cols; k += block) {
    args.cols = product.cols - k < block ? product.cols - k : block;
    tile_rows<F32Step, Simd::kTileRowsF32, Simd::kTilePanelsF32>(args, product.rows,
                                                                 product.num_panels);
    args.x += block;
    args.panels += block * kPanelRows;
    args.accumulate = true;
  }
}

void product_bf16(const PanelProduct& product) {
  if (product.rows <= kStreamRows) {
    return stream_rows(whole_product<Bf16Step>(product), product.rows, product.num_panels);
  }
  const std::int64_t block = block_cols(product.cols);
  TileArgs<F32Step> args{static_cast<const float*>(product.x),
                         product.x_stride,
                         product.scratch,
                         0,
                         0,
                         product.tile,
                         product.tile_stride,
                         product.accumulate};
  for (std::int64_t k = 0; k < product.cols; k += block) {
    args.cols = product.cols - k < block ? product.cols - k : block;
    args.panel_stride = args.cols * kPanelRows;
    widen_panels(product, k, args.cols);
    tile_rows<F32Step, Simd::kTileRowsF32, Simd::kTilePanelsF32>(args, product.rows,
                                                                 product.num_panels);
    args.x += block;
    args.accumulate = true;
  }
}

}  // namespace
}  // namespace moa_rt
