// Random data and the read ceiling of the device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace moa_rt::cuda::bench {

// About normal numbers times scale: 16-bit bfloat16 or float32.
void fill_bf16(void* data, std::int64_t count, std::uint32_t seed, float scale,
               cudaStream_t stream);
void fill_f32(float* data, std::int64_t count, std::uint32_t seed, float scale,
              cudaStream_t stream);

// Reads `bytes` (a multiple of 16) and writes next to nothing.
void read_all(const void* data, std::int64_t bytes, float* sink, cudaStream_t stream);

}  // namespace moa_rt::cuda::bench
