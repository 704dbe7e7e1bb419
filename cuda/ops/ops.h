// Launchers of the row-wise operations. Contracts: ops/backend.h. float32 activations, row-major.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/attention/attention.h"
#include "moa_rt/types.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

// out (rows, width) = rows `tokens` of table (vocab, width) in `dtype`.
void launch_embed(const void* table, DType dtype, const std::int32_t* tokens, std::int64_t rows,
                  std::int64_t width, float* out, cudaStream_t stream);

// out = x / sqrt(mean(x^2) + eps) * weight; out may be x.
void launch_rms_norm(const float* x, const float* weight, float eps, std::int64_t rows,
                     std::int64_t width, float* out, cudaStream_t stream);

// The same, rounded to `dtype`.
void launch_rms_norm_rounded(const float* x, const float* weight, float eps, std::int64_t rows,
                             std::int64_t width, DType dtype, void* out, cudaStream_t stream);

// out (rows, width) = silu(gate) * up of gate_up (rows, 2 * width).
void launch_silu_mul(const float* gate_up, std::int64_t rows, std::int64_t width, float* out,
                     cudaStream_t stream);

// The same, rounded to `dtype`.
void launch_silu_mul_rounded(const float* gate_up, std::int64_t rows, std::int64_t width,
                             DType dtype, void* out, cudaStream_t stream);

// out (rows, width) = rows `index` of x.
void launch_gather_rows(const float* x, const std::int64_t* index, std::int64_t rows,
                        std::int64_t width, float* out, cudaStream_t stream);

// out[r] = log(softmax(logits[r])[tokens[r]]) of logits (rows, vocab), or what is wrong with the
// row; tokens and out on the device.
void launch_token_logprobs(const float* logits, const std::int32_t* tokens, std::int64_t rows,
                           std::int64_t vocab, RowLogprob* out, cudaStream_t stream);

// out = x in `dtype`, 16-byte aligned both.
void launch_convert(const float* x, std::int64_t count, DType dtype, void* out,
                    cudaStream_t stream);

// out (rows, outputs) = x (rows, inputs), rounded to `dtype`, @ weight (outputs, inputs)^T [+ bias]
// [+ out], accumulated in float32; where small_matmul_takes() the inputs.
inline constexpr int kMaxSmallRows = 8;
struct SmallMatmul {
  const float* x = nullptr;
  std::int64_t rows = 0;
  const void* weight = nullptr;
  DType dtype = DType::kBF16;
  std::int64_t outputs = 0;
  std::int64_t inputs = 0;
  float* out = nullptr;
  const float* bias = nullptr;
  bool accumulate = false;
  // (inputs): x is normed first, bit for bit as launch_rms_norm does it.
  const float* norm = nullptr;
  float eps = 0.0f;
  // weight is [gate | up], 2 * outputs rows; out = silu(gate) * up. Neither bias nor accumulation.
  bool gated = false;
};
void launch_small_matmul(const SmallMatmul& product, cudaStream_t stream);
// At most kMaxSmallRows rows, inputs a multiple of 8, and the current device has room for them.
bool small_matmul_takes(std::int64_t rows, std::int64_t inputs);

// Backend::rope_append. Segments (slices, Hkv); rows of slices with one row go to their cache.
struct RopeKernelArgs {
  AttentionDims dims;
  DType dtype = DType::kBF16;  // of the caches
  std::int32_t rows = 0;
  const std::int32_t* positions = nullptr;   // (M)
  const std::int32_t* row_slices = nullptr;  // (M): which slice a row belongs to
  const Segment* segments = nullptr;
  std::int64_t stride = 0;     // of the segments of one slice
  std::byte* kept = nullptr;   // (segments, 2, D): takes what rows of segments that keep overwrite
  const float* cos = nullptr;  // (positions, D / 2)
  const float* sin = nullptr;
  const float* query_norm = nullptr;  // (D) or nullptr
  const float* key_norm = nullptr;
  float norm_eps = 0.0f;
  float* qkv = nullptr;
};
void launch_rope_append(const RopeKernelArgs& args, cudaStream_t stream);

}  // namespace moa_rt::cuda
