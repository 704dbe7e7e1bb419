// What the device can do at most, measured in the same run as everything else.
#pragma once

#include "cuda/bench/device_fill.h"
#include "cuda/bench/measure.h"
#include "cuda/runtime/cuda_backend.h"

namespace moa_rt::cuda::bench {

// Bytes a second of a kernel that only reads.
inline double read_ceiling() {
  CudaBackend backend({DeviceType::kCuda, 0});
  const std::int64_t bytes = std::int64_t{4} << 30;
  const Storage data(backend.allocator(), bytes);
  const Storage sink(backend.allocator(), 4);
  fill_bf16(data.data(), bytes / 2, 1, 1.0f, backend.stream());
  check(cudaStreamSynchronize(backend.stream()), "fill");
  const GraphExec graph = capture(backend.stream(), [&] {
    read_all(data.data(), bytes, reinterpret_cast<float*>(sink.data()), backend.stream());
  });
  return static_cast<double>(bytes) / medians({&graph}, backend.stream())[0];
}

}  // namespace moa_rt::cuda::bench
