// CpuBackend: the operations of backend.h on this machine's processor, in float32 and bf16.
//
// In bf16, matrices and caches are bf16; what enters a product (x, q, k, v) is rounded to bf16,
// nearest even, on every instruction set, and everything else is float32: the type means the same
// everywhere.
#include <cmath>
#include <cstring>

#include "core/message.h"
#include "core/parallel.h"
#include "cpu/attention.h"
#include "cpu/isa.h"
#include "cpu/kv_rows.h"
#include "cpu/matmul.h"
#include "cpu/memory_limit.h"
#include "cpu/panels.h"
#include "cpu/workspace.h"
#include "moa_rt/error.h"
#include "ops/backend.h"
#include "ops/logit_fault.h"

namespace moa_rt {
namespace {

// Work on fewer elements than this is done faster than other threads wake.
constexpr std::int64_t kParallelElements = 32768;

class CpuBackend final : public Backend {
 public:
  CpuBackend(int num_threads, const std::string& isa)
      : kernels_(select_kernels(isa)), allocator_(make_host_allocator()), pool_(num_threads) {}

  Device device() const override { return {DeviceType::kCpu, 0}; }
  std::string description() const override {
    const std::string threads = std::to_string(pool_.size());
    return "cpu (" + std::string(kernels_.name) + ", " + threads +
           (pool_.size() == 1 ? " thread)" : " threads)");
  }
  Allocator& allocator() override { return *allocator_; }
  bool supports(DType dtype) const override {
    return dtype == DType::kF32 || dtype == DType::kBF16;
  }
  bool supports_head_dim(std::int64_t head_dim) const override {
    return head_dim >= 8 && head_dim <= 256 && head_dim % 8 == 0;
  }
  std::int64_t free_bytes() const override { return free_host_bytes(); }

  std::int64_t workspace_bytes(const BackendLimits& limits) const override {
    return Workspace(limits, pool_.size(), kernels_.bf16_operand_size).bytes();
  }
  void reserve(const BackendLimits& limits) override {
    Workspace workspace(limits, pool_.size(), kernels_.bf16_operand_size);
    workspace.allocate(*allocator_);
    workspace_ = std::move(workspace);
  }

  std::int64_t matrix_bytes(std::int64_t rows, std::int64_t cols, DType dtype) const override {
    return PanelShape(rows, cols, dtype).bytes;
  }
  Matrix load_matrix(std::int64_t rows, std::int64_t cols, DType dtype,
                     const RowReader& reader) override {
    return pack_matrix(*allocator_, pool_, rows, cols, dtype, reader);
  }
  void copy_to_device(Tensor& destination, const void* source) override {
    std::memcpy(destination.data<void>(), source, static_cast<std::size_t>(destination.bytes()));
  }
  void copy_to_host(void* destination, const Tensor& source) override {
    std::memcpy(destination, source.data<void>(), static_cast<std::size_t>(source.bytes()));
  }

  void embed(const Matrix& table, std::span<const std::int32_t> tokens, Tensor& out) override {
    for_rows(out, [&](std::int64_t row) {
      unpack_row(table, tokens[static_cast<std::size_t>(row)],
                 out.data<float>() + row * table.cols);
    });
  }

  void rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& out) override {
    const std::int64_t cols = x.dim(1);
    for_rows(out, [&](std::int64_t row) {
      kernels_.rms_norm(x.data<float>() + row * cols, weight.data<float>(), cols,
                        static_cast<float>(eps), out.data<float>() + row * cols);
    });
  }

  void matmul(const Tensor& x, const Matrix& weight, const Tensor* bias, bool accumulate,
              Tensor& out) override {
    cpu_matmul(context(), x, weight, bias, accumulate, out);
  }

  void silu_mul(const Tensor& gate_up, Tensor& out) override {
    const std::int64_t cols = out.dim(1);
    for_rows(out, [&](std::int64_t row) {
      const float* gate = gate_up.data<float>() + row * 2 * cols;
      kernels_.silu_mul(gate, gate + cols, cols, out.data<float>() + row * cols);
    });
  }

  void rope_append(const RopeArgs& args, Tensor& qkv) override {
    cpu_rope_append(context(), args, qkv);
  }

  void attention(const AttentionArgs& args, const Tensor& qkv, Tensor& out) override {
    cpu_attention(context(), args, qkv, out);
  }

  void gather_rows(const Tensor& x, std::span<const std::int64_t> index, Tensor& out) override {
    const std::int64_t cols = x.dim(1);
    for (std::size_t i = 0; i < index.size(); ++i) {
      std::memcpy(out.data<float>() + static_cast<std::int64_t>(i) * cols,
                  x.data<float>() + index[i] * cols,
                  static_cast<std::size_t>(cols) * sizeof(float));
    }
  }

  void token_logprobs(const Tensor& logits, std::span<const std::int32_t> tokens,
                      std::span<RowLogprob> out) override {
    const std::int64_t cols = logits.dim(1);
    for_rows(logits, [&](std::int64_t row) {
      const auto index = static_cast<std::size_t>(row);
      const std::span values(logits.data<float>() + row * cols, static_cast<std::size_t>(cols));
      out[index] = row_logprob(values, tokens[index]);
    });
  }

 private:
  RowLogprob row_logprob(std::span<const float> logits, std::int32_t token) const {
    const auto count = static_cast<std::int64_t>(logits.size());
    RowLogprob result;
    const float top = kernels_.row_max(logits.data(), count);
    const double sum = std::isfinite(top) ? kernels_.sum_exp(logits.data(), count, top) : 0.0;
    if (sum > 0.0) {
      const double total = static_cast<double>(top) + std::log(sum);
      result.logprob =
          static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(token)]) - total);
    } else {  // also where a NaN made the sum one
      result.fault = find_logit_fault(logits, result.faulty);
    }
    return result;
  }
  CpuContext context() { return {kernels_, pool_, workspace_}; }

  // body(row) for every row of a tensor, on all threads where there is enough to do.
  template <typename Body>
  void for_rows(const Tensor& x, const Body& body) {
    const std::int64_t rows = x.dim(0);
    if (x.elements() < kParallelElements) {
      for (std::int64_t row = 0; row < rows; ++row) body(row);
      return;
    }
    pool_.parallel_for(rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t row = begin; row < end; ++row) body(row);
    });
  }

  const CpuKernels& kernels_;
  std::unique_ptr<Allocator> allocator_;  // outlives the workspace
  ThreadPool pool_;
  Workspace workspace_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int num_threads, const std::string& isa) {
  if (num_threads < 1 || num_threads > 1024) {
    throw ArgumentError(describe({.item = "cpu",
                                  .field = "num_threads",
                                  .got = std::to_string(num_threads),
                                  .want = "a value in [1, 1024]"}));
  }
  return std::make_unique<CpuBackend>(num_threads, isa);
}

}  // namespace moa_rt
