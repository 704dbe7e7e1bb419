// The kernels for AVX2 and FMA.
#include "cpu/simd_avx2.h"
// After the vector words they are written in.
#include "cpu/attention_kernels.h"
#include "cpu/product_kernels.h"
#include "cpu/row_kernels.h"

namespace moa_rt {
namespace {

constexpr CpuKernels kKernels{.name = "avx2",
                              .bf16_operand_size = 4,
                              .product_f32 = product_f32,
                              .product_bf16 = product_bf16,
                              .round_operand = round_operand,
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

const CpuKernels& avx2_kernels() { return kKernels; }

}  // namespace moa_rt
