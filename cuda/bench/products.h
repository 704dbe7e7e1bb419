// Products of few rows: our own against cuBLASLt.
#pragma once

#include <cstdio>
#include <functional>
#include <utility>
#include <vector>

#include "cuda/bench/device_fill.h"
#include "cuda/bench/measure.h"
#include "cuda/ops/ops.h"
#include "cuda/runtime/cuda_backend.h"
#include "cuda/runtime/matmul.h"

namespace moa_rt::cuda::bench {

// Weights of one shape, more of them than the L2 holds five times, and what products need beside.
class Products {
 public:
  Products(std::int64_t outputs, std::int64_t inputs)
      : outputs_(outputs),
        inputs_(inputs),
        backend_({DeviceType::kCuda, 0}),
        blas_(backend_.context()) {
    Allocator& memory = backend_.allocator();
    workspace_ = Storage(memory, BlasMatmul::kWorkspaceBytes);
    x_ = Storage(memory, kMostRows * inputs * 4);
    converted_ = Storage(memory, kMostRows * inputs * 2);
    out_ = Storage(memory, kMostRows * outputs * 4);
    fill_f32(reinterpret_cast<float*>(x_.data()), kMostRows * inputs, 1, 1.0f, stream());
    const std::int64_t copies = (std::int64_t{512} << 20) / (outputs * inputs * 2) + 1;
    for (std::int64_t i = 0; i < copies; ++i) {
      weights_.push_back({.rows = outputs,
                          .cols = inputs,
                          .dtype = DType::kBF16,
                          .storage = Storage(memory, outputs * inputs * 2)});
      fill_bf16(weights_.back().storage.data(), outputs * inputs, static_cast<std::uint32_t>(i),
                0.02f, stream());
    }
  }

  static constexpr std::int64_t kMostRows = 400;

  // Seconds of one product through cuBLASLt and, where it takes the rows, our own; the conversion
  // of x is part of both.
  std::vector<double> seconds(std::int64_t rows) {
    std::vector<GraphExec> graphs;
    graphs.push_back(record([&](const Matrix& weight) { through_blas(rows, weight); }));
    if (small_matmul_takes(rows, inputs_)) {
      graphs.push_back(record([&](const Matrix& weight) { through_own(rows, weight); }));
    }
    std::vector<const GraphExec*> contenders;
    for (const GraphExec& graph : graphs) contenders.push_back(&graph);
    std::vector<double> out;
    for (const Timing& timing : compare(contenders, stream())) {
      out.push_back(timing.seconds / static_cast<double>(weights_.size()));
    }
    return out;
  }

 private:
  cudaStream_t stream() const { return backend_.stream(); }
  const float* x() const { return reinterpret_cast<const float*>(x_.data()); }
  float* out() const { return reinterpret_cast<float*>(out_.data()); }

  GraphExec record(const std::function<void(const Matrix&)>& product) {
    product(weights_.front());
    check(cudaStreamSynchronize(stream()), "products");
    return capture(stream(), [&] {
      for (const Matrix& weight : weights_) product(weight);
    });
  }
  void convert(std::int64_t rows) {
    launch_convert(x(), rows * inputs_, DType::kBF16, converted_.data(), stream());
  }
  void through_blas(std::int64_t rows, const Matrix& weight) {
    convert(rows);
    blas_.run(converted_.data(), rows, weight, nullptr, false, out(), workspace_.data(), stream());
  }
  void through_own(std::int64_t rows, const Matrix& weight) {
    launch_small_matmul({.x = x(),
                         .rows = rows,
                         .weight = weight.storage.data(),
                         .dtype = DType::kBF16,
                         .outputs = outputs_,
                         .inputs = inputs_,
                         .out = out()},
                        stream());
  }

  std::int64_t outputs_;
  std::int64_t inputs_;
  CudaBackend backend_;
  BlasMatmul blas_;
  Storage workspace_, x_, converted_, out_;
  std::vector<Matrix> weights_;
};

// Share of what reading the weights takes.
inline void products(double ceiling) {
  for (const auto& [outputs, inputs] : {std::pair<std::int64_t, std::int64_t>{6144, 4096},
                                        {4096, 4096},
                                        {28672, 4096},
                                        {4096, 14336}}) {
    Products work(outputs, inputs);
    const double floor = static_cast<double>(outputs * inputs * 2) / ceiling;
    for (const std::int64_t rows : {1, 2, 4, 8, 16, 32, 50, 64, 100, 200, 400}) {
      const std::vector<double> seconds = work.seconds(rows);
      std::printf(
          "{\"product\": [%d, %d, %d], \"cublas_us\": %.2f, \"cublas_share_of_read\": %.3f, ",
          static_cast<int>(rows), static_cast<int>(outputs), static_cast<int>(inputs),
          seconds[0] * 1e6, floor / seconds[0]);
      if (seconds.size() > 1) {
        std::printf("\"own_us\": %.2f, \"own_share_of_read\": %.3f}\n", seconds[1] * 1e6,
                    floor / seconds[1]);
      } else {
        std::printf("\"own_us\": null, \"own_share_of_read\": null}\n");
      }
      std::fflush(stdout);
    }
  }
}

}  // namespace moa_rt::cuda::bench
