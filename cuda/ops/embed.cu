// Token embeddings: a gather of weight rows, widened to float32.
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/ops/ops.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void embed(const T* table, const std::int32_t* tokens, std::int64_t width, float* out) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t row = blockIdx.x;
  const T* source = table + static_cast<std::int64_t>(tokens[row]) * width;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[row * width + i] = to_float(source[i]);
  }
}

}  // namespace

void launch_embed(const void* table, DType dtype, const std::int32_t* tokens, std::int64_t rows,
                  std::int64_t width, float* out, cudaStream_t stream) {
  if (rows == 0) return;
  dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch("embed", embed<T>, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream,
           static_cast<const T*>(table), tokens, width, out);
  });
}

}  // namespace moa_rt::cuda
