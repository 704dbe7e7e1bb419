// Products of a few rows, bound by reading the weights once: a warp feeds sixteen weight rows from
// global memory straight into the matrix units, with no shared memory on the way.
//
// The order of k inside a fragment is free as long as both operands agree on it, so every lane
// takes eight neighbouring weights in one 16-byte load: they are its share of two matrix steps.
// Eight warps split k and are added in order; a row's result does not depend on the other rows.
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/mma.cuh"
#include "cuda/ops/ops.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kOutputs = 16;              // of a block
constexpr int kBlock = 32;                // k that a warp takes at once
constexpr int kStride = kWarps * kBlock;  // k between a warp's blocks
constexpr int kUnroll = 4;                // blocks in flight
constexpr int kColumns = kMaxSmallRows;   // of the matrix tile
static_assert(kColumns == 8);

struct SmallMatmulArgs {
  const float* x;  // (rows, inputs)
  const void* weight;
  const float* bias;
  float* out;
  int rows;
  bool accumulate;
  std::int64_t outputs;
  std::int64_t inputs;
};

__device__ uint4 load_once(const void* pointer) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(pointer));
  return v;
}

template <typename T>
__global__ void __launch_bounds__(kWarps * 32, 2) small_matmul(SmallMatmulArgs args) {
  __shared__ float sums[kWarps][kOutputs][kColumns];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = lane / 4;
  const int column = (lane % 4) * 8;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kOutputs;
  const auto weight_row = [&](std::int64_t index) {
    return static_cast<const T*>(args.weight) + min(index, args.outputs - 1) * args.inputs + column;
  };
  const T* upper = weight_row(first + row);
  const T* lower = weight_row(first + row + 8);
  const bool has_row = row < args.rows;
  const float* x = args.x + (has_row ? row : 0) * args.inputs + column;

  // Weights are on their way before x is there: nothing of the step writes them.
  uint4 a[kUnroll][2];
  const auto load_weights = [&](std::int64_t k) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t at = k + u * kStride;
      const bool inside = at + column < args.inputs;
      a[u][0] = inside ? load_once(upper + at) : uint4{};
      a[u][1] = inside ? load_once(lower + at) : uint4{};
    }
  };
  let_next_start();
  load_weights(warp * kBlock);
  wait_for_inputs();

  float sum[4] = {};
  for (std::int64_t k = warp * kBlock; k < args.inputs; k += kUnroll * kStride) {
    float4 b[kUnroll][2] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t at = k + u * kStride;
      if (at + column >= args.inputs || !has_row) continue;
      b[u][0] = *reinterpret_cast<const float4*>(x + at);
      b[u][1] = *reinterpret_cast<const float4*>(x + at + 4);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::uint32_t low[4] = {a[u][0].x, a[u][1].x, a[u][0].y, a[u][1].y};
      const std::uint32_t high[4] = {a[u][0].z, a[u][1].z, a[u][0].w, a[u][1].w};
      mma<T>(sum, low, pack<T>(b[u][0].x, b[u][0].y), pack<T>(b[u][0].z, b[u][0].w));
      mma<T>(sum, high, pack<T>(b[u][1].x, b[u][1].y), pack<T>(b[u][1].z, b[u][1].w));
    }
    load_weights(k + kUnroll * kStride);
  }
  const int pair = (lane % 4) * 2;
  sums[warp][row][pair] = sum[0];
  sums[warp][row][pair + 1] = sum[1];
  sums[warp][row + 8][pair] = sum[2];
  sums[warp][row + 8][pair + 1] = sum[3];
  __syncthreads();

  // Neighbouring threads write neighbouring outputs of one row.
  const int output = static_cast<int>(threadIdx.x) % kOutputs;
  const int out_row = static_cast<int>(threadIdx.x) / kOutputs;
  if (out_row >= args.rows || first + output >= args.outputs) return;
  float total = args.bias == nullptr ? 0.0f : args.bias[first + output];
  float* target = args.out + out_row * args.outputs + first + output;
  if (args.accumulate) total += *target;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += sums[w][output][out_row];
  *target = total;
}

}  // namespace

void launch_small_matmul(const float* x, std::int64_t rows, const void* weight, DType dtype,
                         std::int64_t outputs, std::int64_t inputs, const float* bias,
                         bool accumulate, float* out, cudaStream_t stream) {
  const SmallMatmulArgs args{.x = x,
                             .weight = weight,
                             .bias = bias,
                             .out = out,
                             .rows = static_cast<int>(rows),
                             .accumulate = accumulate,
                             .outputs = outputs,
                             .inputs = inputs};
  dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    const auto blocks = static_cast<unsigned>((outputs + kOutputs - 1) / kOutputs);
    launch("small matmul", small_matmul<T>, dim3(blocks), kWarps * 32, 0, stream, args);
  });
}

}  // namespace moa_rt::cuda
