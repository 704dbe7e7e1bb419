// The kernels for AVX-512 with bf16 dot products: the AVX-512 ones, but for bf16 matrices, whose
// panels already hold the pairs that vdpbf16ps takes.
#include "cpu/simd_avx512.h"
// After the vector words they are written in.
#include "cpu/attention_kernels.h"
#include "cpu/product_kernels.h"
#include "cpu/row_kernels.h"

namespace moa_rt {
namespace {

// A step is a pair of k, multiplied and added by one instruction.
struct Bf16DotStep {
  using X = std::uint16_t;
  using W = std::uint16_t;
  using Activation = __m512i;
  using Weight = __m512i;
  static constexpr int kCols = 2;
  static Activation broadcast(const X* x) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static Weight load(const W* line, int) { return _mm512_loadu_si512(line); }
  static Simd::F multiply(const Activation& a, const Weight& b, Simd::F sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

void product_bf16_dot(const PanelProduct& product) {
  TileArgs<Bf16DotStep> args = whole_product<Bf16DotStep>(product);
  if (product.rows <= kStreamRows) return stream_rows(args, product.rows, product.num_panels);
  const std::int64_t block = block_cols(product.cols);
  for (std::int64_t k = 0; k < product.cols; k += block) {
    args.cols = product.cols - k < block ? product.cols - k : block;
    tile_rows<Bf16DotStep, Simd::kTileRowsF32, Simd::kTilePanelsF32>(args, product.rows,
                                                                     product.num_panels);
    args.x += block;
    args.panels += block * kPanelRows;
    args.accumulate = true;
  }
}

void round_operand_bf16(const float* x, std::int64_t count, std::int64_t padded, void* out) {
  std::uint16_t* rounded = static_cast<std::uint16_t*>(out);
  narrow_bf16(x, count, rounded);
  for (std::int64_t i = count; i < padded; ++i) rounded[i] = 0;
}

constexpr CpuKernels kKernels{.name = "avx512_bf16",
                              .bf16_operand_size = 2,
                              .product_f32 = product_f32,
                              .product_bf16 = product_bf16_dot,
                              .round_operand = round_operand_bf16,
                              .rms_norm = rms_norm,
                              .silu_mul = silu_mul,
                              .row_max = row_max,
                              .sum_exp = sum_exp,
                              .rope = rope,
                              .narrow_bf16 = narrow_bf16,
                              .decode_chunk = decode_chunk,
                              .copy_rows = copy_rows,
                              .pack_keys = pack_keys,
                              .pack_values = pack_values,
                              .softmax_row = softmax_row};

}  // namespace

const CpuKernels& avx512_bf16_kernels() { return kKernels; }

}  // namespace moa_rt
