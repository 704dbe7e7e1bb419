// Arithmetic that several kernels do in exactly the same way, so that a row has the same bits
// whichever of them runs.
#pragma once

#include <cstdint>

#include "cuda/device/numeric.cuh"

namespace moa_rt::cuda {

inline constexpr int kNormThreads = 256;  // each takes every 256th vector of a row

__device__ inline float add_squares(float sum, float4 v) {
  return __fmaf_rn(v.w, v.w, __fmaf_rn(v.z, v.z, __fmaf_rn(v.y, v.y, __fmaf_rn(v.x, v.x, sum))));
}

// Root mean square layer norm, arXiv 1910.07467: what a row is multiplied by.
__device__ inline float norm_scale(float squares, std::int64_t width, float eps) {
  return 1.0f / sqrtf(__fadd_rn(squares / static_cast<float>(width), eps));
}

__device__ inline float4 normed(float4 v, float scale, float4 weight) {
  return {v.x * scale * weight.x, v.y * scale * weight.y, v.z * scale * weight.z,
          v.w * scale * weight.w};
}

// arXiv 2002.05202.
__device__ inline float silu_times(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

// Four neighbours, 16 (8) byte aligned.
__device__ inline void store(float* out, float4 v) { *reinterpret_cast<float4*>(out) = v; }
template <typename T>
__device__ inline void store(T* out, float4 v) {
  *reinterpret_cast<uint2*>(out) = {pack<T>(v.x, v.y), pack<T>(v.z, v.w)};
}

}  // namespace moa_rt::cuda
