// Root mean square layer norm, arXiv 1910.07467: one block a row.
#include "cuda/device/dependency.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/ops/ops.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = 256;

// x and out may be the same memory: every thread reads and writes its own elements only.
__global__ void rms_norm(const float* x, const float* weight, float eps, std::int64_t width,
                         float* out) {
  __shared__ float scratch[kThreads / 32];
  let_next_start();
  wait_for_inputs();
  const float* row = x + blockIdx.x * width;
  float* target = out + blockIdx.x * width;
  const std::int64_t vectors = width % 4 == 0 ? width / 4 : 0;
  const auto* row4 = reinterpret_cast<const float4*>(row);
  float squares = 0.0f;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    const float4 v = row4[i];
    squares += v.x * v.x + v.y * v.y + (v.z * v.z + v.w * v.w);
  }
  for (std::int64_t i = vectors * 4 + threadIdx.x; i < width; i += kThreads) {
    squares += row[i] * row[i];
  }
  const float mean = sum_block(squares, scratch) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + eps);
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    const float4 v = row4[i];
    const float4 w = reinterpret_cast<const float4*>(weight)[i];
    reinterpret_cast<float4*>(target)[i] = {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z,
                                            v.w * scale * w.w};
  }
  for (std::int64_t i = vectors * 4 + threadIdx.x; i < width; i += kThreads) {
    target[i] = row[i] * scale * weight[i];
  }
}

}  // namespace

void launch_rms_norm(const float* x, const float* weight, float eps, std::int64_t rows,
                     std::int64_t width, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  launch("rms_norm", rms_norm, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, x, weight,
         eps, width, out);
}

}  // namespace moa_rt::cuda
