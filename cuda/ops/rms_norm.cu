// Root mean square layer norm, arXiv 1910.07467: one block a row.
#include "cuda/device/reduce.cuh"
#include "cuda/ops/ops.h"
#include "cuda/runtime/check.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = 256;

// x and out may be the same memory: every thread reads and writes its own elements only.
__global__ void rms_norm(const float* x, const float* weight, float eps, std::int64_t width,
                         float* out) {
  __shared__ float scratch[kThreads / 32];
  const float* row = x + blockIdx.x * width;
  float squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) squares += row[i] * row[i];
  const float mean = sum_block(squares, scratch) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + eps);
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[blockIdx.x * width + i] = row[i] * scale * weight[i];
  }
}

}  // namespace

void launch_rms_norm(const float* x, const float* weight, float eps, std::int64_t rows,
                     std::int64_t width, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  rms_norm<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, weight, eps, width, out);
  check_launch("rms_norm");
}

}  // namespace moa_rt::cuda
