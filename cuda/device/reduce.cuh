// Reductions in a fixed order: the same values give the same bits.
#pragma once

namespace moa_rt::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Over groups of `Lanes` neighbouring lanes; every lane gets the result.
template <int Lanes = 32>
__device__ inline float sum_lanes(float x) {
#pragma unroll
  for (int step = Lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <int Lanes = 32>
__device__ inline float max_lanes(float x) {
#pragma unroll
  for (int step = Lanes / 2; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  }
  return x;
}

// Over a block of whole warps, at most 1024 threads; every thread gets the result. `scratch` holds
// one float for each warp and may be reused after the next barrier.
__device__ inline float sum_block(float x, float* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  x = sum_lanes(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return sum_lanes(lane < warps ? scratch[lane] : 0.0f);
}

}  // namespace moa_rt::cuda
