// A backend that only takes weights: plain row-major matrices in host memory, in blocks of a chosen
// number of rows. Everything else throws.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "ops/backend.h"

namespace moa_rt::testing {

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(std::int64_t block_rows = INT64_MAX) : block_rows_(block_rows) {}

  // Called before each matrix is read.
  std::function<void()> before_matrix;

  Device device() const override { return {}; }
  std::string description() const override { return "fake"; }
  Allocator& allocator() override { return *allocator_; }
  bool supports(DType) const override { return true; }
  bool supports_head_dim(std::int64_t) const override { return true; }
  std::int64_t free_bytes() const override { return INT64_MAX; }
  std::int64_t workspace_bytes(const BackendLimits&) const override { return 0; }
  void reserve(const BackendLimits&) override {}
  std::int64_t matrix_bytes(std::int64_t rows, std::int64_t cols, DType dtype) const override {
    return rows * cols * size_of(dtype);
  }
  Matrix load_matrix(std::int64_t rows, std::int64_t cols, DType dtype,
                     const RowReader& reader) override {
    if (before_matrix) before_matrix();
    Matrix matrix;
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.dtype = dtype;
    matrix.storage = Storage(allocator(), matrix_bytes(rows, cols, dtype));
    const std::int64_t row_bytes = cols * size_of(dtype);
    for (std::int64_t begin = 0; begin < rows; begin += std::min(block_rows_, rows)) {
      const std::int64_t count = std::min(block_rows_, rows - begin);
      reader(begin, count,
             std::span(matrix.storage.data() + begin * row_bytes,
                       static_cast<std::size_t>(count * row_bytes)));
    }
    return matrix;
  }
  void copy_to_device(Tensor& destination, const void* source) override {
    std::memcpy(destination.data<std::byte>(), source,
                static_cast<std::size_t>(destination.bytes()));
  }
  void copy_to_host(void* destination, const Tensor& source) override {
    std::memcpy(destination, source.data<std::byte>(), static_cast<std::size_t>(source.bytes()));
  }

  void embed(const Matrix&, std::span<const std::int32_t>, Tensor&) override { refuse(); }
  void rms_norm(const Tensor&, const Tensor&, double, Tensor&) override { refuse(); }
  void matmul(const Tensor&, const Matrix&, const Tensor*, bool, Tensor&) override { refuse(); }
  void silu_mul(const Tensor&, Tensor&) override { refuse(); }
  void rope_append(const RopeArgs&, Tensor&) override { refuse(); }
  void attention(const AttentionArgs&, const Tensor&, Tensor&) override { refuse(); }
  void gather_rows(const Tensor&, std::span<const std::int64_t>, Tensor&) override { refuse(); }
  void token_logprobs(const Tensor&, std::span<const std::int32_t>,
                      std::span<RowLogprob>) override {
    refuse();
  }

 private:
  [[noreturn]] static void refuse() { throw std::logic_error("the fake backend computes nothing"); }

  std::int64_t block_rows_;
  std::unique_ptr<Allocator> allocator_ = make_host_allocator();
};

}  // namespace moa_rt::testing
