// Operations on single elements: gated activation, row gather, conversion.
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/ops/ops.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

__device__ std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

// arXiv 2002.05202.
__global__ void silu_mul(const float* gate_up, std::int64_t count, std::int64_t width, float* out) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t index = thread_index();
  if (index >= count) return;
  const float* gate = gate_up + (index / width) * 2 * width + index % width;
  const float x = *gate;
  out[index] = x / (1.0f + expf(-x)) * gate[width];
}

__global__ void gather_rows(const float* x, const std::int64_t* rows, std::int64_t count,
                            std::int64_t width, float* out) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t index = thread_index();
  if (index < count) out[index] = x[rows[index / width] * width + index % width];
}

template <typename T>
__global__ void convert(const float* x, std::int64_t count, T* out) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t index = thread_index() * 4;
  if (index + 4 <= count) {
    const float4 v = *reinterpret_cast<const float4*>(x + index);
    *reinterpret_cast<uint2*>(out + index) = {pack<T>(v.x, v.y), pack<T>(v.z, v.w)};
    return;
  }
  for (std::int64_t i = index; i < count; ++i) out[i] = from_float<T>(x[i]);
}

}  // namespace

void launch_silu_mul(const float* gate_up, std::int64_t rows, std::int64_t width, float* out,
                     cudaStream_t stream) {
  const std::int64_t count = rows * width;
  if (count == 0) return;
  launch("silu_mul", silu_mul, dim3(blocks_for(count)), kThreads, 0, stream, gate_up, count, width,
         out);
}

void launch_gather_rows(const float* x, const std::int64_t* index, std::int64_t rows,
                        std::int64_t width, float* out, cudaStream_t stream) {
  const std::int64_t count = rows * width;
  if (count == 0) return;
  launch("gather_rows", gather_rows, dim3(blocks_for(count)), kThreads, 0, stream, x, index, count,
         width, out);
}

void launch_convert(const float* x, std::int64_t count, DType dtype, void* out,
                    cudaStream_t stream) {
  if (count == 0) return;
  dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch("convert", convert<T>, dim3(blocks_for((count + 3) / 4)), kThreads, 0, stream, x, count,
           static_cast<T*>(out));
  });
}

}  // namespace moa_rt::cuda
