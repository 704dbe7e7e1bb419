// What the device can do at most, measured in the same run as everything else.
#pragma once

#include <cmath>

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
  return static_cast<double>(bytes) / median_seconds(graph, backend.stream());
}

// What the device can do: bytes read and bf16 operations a second.
struct Ceilings {
  double read = 0.0;
  double matmul = 0.0;
};

// Operations a second of a large product as the decoder makes them, bf16 to float32.
inline double matmul_ceiling() {
  constexpr std::int64_t kSize = 8192;
  CudaBackend backend({DeviceType::kCuda, 0});
  const cudaStream_t stream = backend.stream();
  BlasMatmul blas(backend.context());
  Allocator& memory = backend.allocator();
  const Storage workspace(memory, BlasMatmul::kWorkspaceBytes);
  const Storage x(memory, kSize * kSize * 2), out(memory, kSize * kSize * 4);
  const Matrix weight{.rows = kSize,
                      .cols = kSize,
                      .dtype = DType::kBF16,
                      .storage = Storage(memory, kSize * kSize * 2)};
  fill_bf16(x.data(), kSize * kSize, 1, 1.0f, stream);
  fill_bf16(weight.storage.data(), kSize * kSize, 2, 0.02f, stream);
  const auto product = [&] {
    blas.run(x.data(), kSize, weight, nullptr, false, reinterpret_cast<float*>(out.data()),
             workspace.data(), stream);
  };
  product();
  check(cudaStreamSynchronize(stream), "matmul");
  const GraphExec graph = capture(stream, product);
  return 2.0 * std::pow(static_cast<double>(kSize), 3) / median_seconds(graph, stream);
}

}  // namespace moa_rt::cuda::bench
