// The inner loops of the CPU backend, as one table of function pointers per instruction set.
//
// The files that fill a table are compiled with that set's flags, so nothing with vague linkage may
// reach them: this header, and every header they include, holds plain data and declarations only,
// or code in an anonymous namespace. Otherwise the linker could keep the AVX-512 copy of a shared
// inline function for everybody.
#pragma once

#include <cstdint>

namespace moa_rt {

// Outputs of one weight panel: a 64-byte line holds 16 float32, or 16 pairs of bf16.
inline constexpr std::int64_t kPanelRows = 16;
// A prefill tile: at most this many rows and panels, so that its float32 weights stay in L2.
inline constexpr std::int64_t kTileRows = 120;
inline constexpr std::int64_t kTilePanels = 4;
inline constexpr std::int64_t kBlockCols = 768;
inline constexpr std::int64_t kWidenScratch = kTilePanels * kBlockCols * kPanelRows;  // floats
// Up to this many rows stream the panels as they are; more rows share one widened copy.
inline constexpr std::int64_t kStreamRows = 7;
inline constexpr std::int64_t kStreamPanels = 64;
inline constexpr std::int64_t kTileFloats = kPanelRows * kStreamPanels * (kStreamRows + 1);
static_assert(kTileFloats >= kTileRows * kTilePanels * kPanelRows);

// Cache slots of one unit of decode work, and keys of one prefill tile.
inline constexpr std::int64_t kChunkSlots = 256;
inline constexpr std::int64_t kTileKeys = 64;

// tile (rows, num_panels * 16) = x (rows, cols) @ panels^T.
struct PanelProduct {
  const void* x = nullptr;    // rows in the operand form of the weights' type
  std::int64_t x_stride = 0;  // elements between rows
  std::int64_t rows = 0;
  const void* panels = nullptr;
  std::int64_t panel_stride = 0;  // elements between panels
  std::int64_t num_panels = 0;    // <= kTilePanels where bf16 weights are widened
  std::int64_t cols = 0;          // even for bf16
  float* tile = nullptr;
  std::int64_t tile_stride = 0;
  bool accumulate = false;   // tile += instead of tile =
  float* scratch = nullptr;  // kWidenScratch floats, bf16 only
};

// Attention of one group of query heads over `count` consecutive slots of their KV head.
struct DecodeChunk {
  const float* queries = nullptr;  // (group, head_dim)
  std::int64_t group = 0;
  std::int64_t head_dim = 0;
  const void* keys = nullptr;    // (count, head_dim)
  const void* values = nullptr;  // (count, head_dim)
  std::int64_t count = 0;        // <= kChunkSlots
  bool bf16 = false;             // type of the cache; queries are rounded to it
  float scale = 0.0f;
  float* partial =
      nullptr;  // (group, head_dim + 2): largest score, sum of weights, weighted values
};

// How rows of keys, values or queries are stored.
enum class RowFormat : std::uint8_t { kF32, kF32RoundedToBf16, kBf16 };

struct RowBlock {
  const void* rows = nullptr;
  std::int64_t stride = 0;  // elements
  RowFormat format = RowFormat::kF32;
};

// One row of scores of a prefill tile and the running softmax state it is folded into.
struct SoftmaxRow {
  float* scores = nullptr;  // (width), becomes the weights; 0 outside [begin, end)
  std::int64_t width = 0;   // multiple of 16
  std::int64_t begin = 0;   // visible keys, not empty
  std::int64_t end = 0;
  float scale = 0.0f;
  float* max = nullptr;
  float* sum = nullptr;
  float* out = nullptr;        // (out_width), rescaled when the maximum grows
  std::int64_t out_width = 0;  // multiple of 16
};

struct CpuKernels {
  const char* name = nullptr;
  // Bytes of an element of x in a bf16 product: 4 where rounded values are kept as float32.
  std::int64_t bf16_operand_size = 4;

  void (*product_f32)(const PanelProduct& product) = nullptr;
  void (*product_bf16)(const PanelProduct& product) = nullptr;
  // The operand form of x for product_bf16: rounded to nearest even, zero from count to padded.
  void (*round_operand)(const float* x, std::int64_t count, std::int64_t padded,
                        void* out) = nullptr;

  void (*rms_norm)(const float* x, const float* weight, std::int64_t count, float eps,
                   float* out) = nullptr;
  void (*silu_mul)(const float* gate, const float* up, std::int64_t count, float* out) = nullptr;
  // The largest, NaN left out (-inf if there is nothing else), and the sum of e^(x - shift), NaN if
  // there is one.
  float (*row_max)(const float* x, std::int64_t count) = nullptr;
  double (*sum_exp)(const float* x, std::int64_t count, float shift) = nullptr;
  void (*rope)(float* x, const float* cos, const float* sin, std::int64_t half) = nullptr;
  void (*narrow_bf16)(const float* x, std::int64_t count, std::uint16_t* out) = nullptr;

  void (*decode_chunk)(const DecodeChunk& chunk) = nullptr;
  // out (count, head_dim) float32.
  void (*copy_rows)(const RowBlock& block, std::int64_t count, std::int64_t head_dim,
                    float* out) = nullptr;
  // Panels of 16 keys, (ceil(count / 16), head_dim, 16), zero beyond count.
  void (*pack_keys)(const RowBlock& block, std::int64_t count, std::int64_t head_dim,
                    float* out) = nullptr;
  // Panels of 16 columns, (ceil(head_dim / 16), count, 16), zero beyond head_dim.
  void (*pack_values)(const RowBlock& block, std::int64_t count, std::int64_t head_dim,
                      float* out) = nullptr;
  void (*softmax_row)(const SoftmaxRow& row) = nullptr;
};

// One table per instruction set this build was compiled for.
const CpuKernels& portable_kernels();
#if defined(MOA_RT_X86_KERNELS)
const CpuKernels& avx2_kernels();
const CpuKernels& avx512_kernels();
const CpuKernels& avx512_bf16_kernels();
#endif

}  // namespace moa_rt
