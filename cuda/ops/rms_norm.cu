// Root mean square layer norm, arXiv 1910.07467: one block a row.
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/reduce.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/row_math.cuh"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = kNormThreads;

// x and out may be the same memory: every thread reads and writes its own elements only.
template <typename T>
__global__ void rms_norm(const float* x, const float* weight, float eps, std::int64_t width,
                         T* out) {
  __shared__ float scratch[kThreads / 32];
  let_next_start();
  wait_for_inputs();
  const float* row = x + blockIdx.x * width;
  T* target = out + blockIdx.x * width;
  const std::int64_t vectors = width % 4 == 0 ? width / 4 : 0;
  const auto* row4 = reinterpret_cast<const float4*>(row);
  float squares = 0.0f;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    squares = add_squares(squares, row4[i]);
  }
  for (std::int64_t i = vectors * 4 + threadIdx.x; i < width; i += kThreads) {
    squares += row[i] * row[i];
  }
  const float scale = norm_scale(sum_block(squares, scratch), width, eps);
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    store(target + i * 4, normed(row4[i], scale, reinterpret_cast<const float4*>(weight)[i]));
  }
  for (std::int64_t i = vectors * 4 + threadIdx.x; i < width; i += kThreads) {
    target[i] = from_float<T>(row[i] * scale * weight[i]);
  }
}

}  // namespace

void launch_rms_norm(const float* x, const float* weight, float eps, std::int64_t rows,
                     std::int64_t width, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  launch("rms_norm", rms_norm<float>, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, x,
         weight, eps, width, out);
}

void launch_rms_norm_rounded(const float* x, const float* weight, float eps, std::int64_t rows,
                             std::int64_t width, DType dtype, void* out, cudaStream_t stream) {
  if (rows == 0) return;
  dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch("rms_norm", rms_norm<T>, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, x,
           weight, eps, width, static_cast<T*>(out));
  });
}

}  // namespace moa_rt::cuda
