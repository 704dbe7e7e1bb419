// Operations on single elements: gated activation, row gather, conversion.
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/ops/ops.h"
#include "cuda/ops/row_math.cuh"
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

// Four neighbours a thread where the width allows it; rows along x.
template <typename T>
__global__ void silu_mul(const float* gate_up, std::int64_t width, T* out) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const float* const gate = gate_up + blockIdx.x * 2 * width;
  T* const target = out + blockIdx.x * width;
  if (width % 4 != 0) {
    if (column < width) {
      target[column] = from_float<T>(silu_times(gate[column], gate[width + column]));
    }
    return;
  }
  if (column * 4 >= width) return;
  const float4 a = reinterpret_cast<const float4*>(gate)[column];
  const float4 b = reinterpret_cast<const float4*>(gate + width)[column];
  store(target + column * 4,
        {silu_times(a.x, b.x), silu_times(a.y, b.y), silu_times(a.z, b.z), silu_times(a.w, b.w)});
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
    store(out + index, *reinterpret_cast<const float4*>(x + index));
    return;
  }
  for (std::int64_t i = index; i < count; ++i) out[i] = from_float<T>(x[i]);
}

}  // namespace

namespace {

template <typename T>
void start_silu_mul(const float* gate_up, std::int64_t rows, std::int64_t width, T* out,
                    cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(rows), blocks_for(width % 4 == 0 ? width / 4 : width));
  launch("silu_mul", silu_mul<T>, grid, kThreads, 0, stream, gate_up, width, out);
}

}  // namespace

void launch_silu_mul(const float* gate_up, std::int64_t rows, std::int64_t width, float* out,
                     cudaStream_t stream) {
  start_silu_mul(gate_up, rows, width, out, stream);
}

void launch_silu_mul_rounded(const float* gate_up, std::int64_t rows, std::int64_t width,
                             DType dtype, void* out, cudaStream_t stream) {
  dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    start_silu_mul(gate_up, rows, width, static_cast<T*>(out), stream);
  });
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
