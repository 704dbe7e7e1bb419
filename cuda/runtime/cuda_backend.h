// The CUDA backend: weights and caches in bfloat16 or float16, activations in float32, everything
// in order on one stream.
//
// Unlike the CPU's, a product may round a row differently in a batch of another size, because
// cuBLASLt chooses its kernel by shape. Attention keeps the promise of ops/backend.h: a sequence
// has the same bits in every batch.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cuda/runtime/decode_loop.h"
#include "cuda/runtime/device_allocator.h"
#include "cuda/runtime/device_context.h"
#include "cuda/runtime/handles.h"
#include "cuda/runtime/matmul.h"
#include "cuda/runtime/step_tables.h"
#include "cuda/runtime/uploader.h"
#include "cuda/runtime/workspace.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

class CudaBackend final : public Backend {
 public:
  // Throws DeviceError if the device is missing or older than sm_80.
  explicit CudaBackend(const Device& device);
  ~CudaBackend() override;

  Device device() const override { return allocator_.device(); }
  std::string description() const override { return description_; }
  Allocator& allocator() override { return allocator_; }
  bool supports(DType dtype) const override { return dtype != DType::kF32; }
  bool supports_head_dim(std::int64_t head_dim) const override;
  std::int64_t free_bytes() const override;
  std::int64_t runtime_bytes() const override;
  void set_aside(std::int64_t bytes, std::int64_t blocks) override;
  void check_alive() const override;

  std::int64_t workspace_bytes(const BackendLimits& limits) const override;
  void reserve(const BackendLimits& limits) override;

  std::int64_t matrix_bytes(std::int64_t rows, std::int64_t cols, DType dtype) const override;
  Matrix load_matrix(std::int64_t rows, std::int64_t cols, DType dtype,
                     const RowReader& reader) override;
  void copy_to_device(Tensor& destination, const void* source) override;
  void copy_to_host(void* destination, const Tensor& source) override;
  const float* host_floats(const Tensor& x) override;

  void embed(const Matrix& table, std::span<const std::int32_t> tokens, Tensor& out) override;
  void rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& out) override;
  void matmul(const Tensor& x, const Matrix& weight, const Tensor* bias, bool accumulate,
              Tensor& out) override;
  void silu_mul(const Tensor& gate_up, Tensor& out) override;
  void norm_matmul(const Tensor& x, const NormArgs& norm, const Matrix& weight, const Tensor* bias,
                   Tensor& normed, Tensor& out) override;
  void mlp(const MlpArgs& args, Tensor& x) override;
  void rope_append(const RopeArgs& args, Tensor& qkv) override;
  void attention(const AttentionArgs& args, const Tensor& qkv, Tensor& out) override;
  void gather_rows(const Tensor& x, std::span<const std::int64_t> index, Tensor& out) override;

  void token_logprobs(const Tensor& logits, std::span<const std::int32_t> tokens,
                      std::span<RowLogprob> out) override;

  std::unique_ptr<DecodeLoop> decode_loop(const DecodeModel& model) override;

  cudaStream_t stream() const { return stream_.get(); }
  const DeviceContext& context() const { return allocator_.context(); }

  // While it lives, operations take their tables from a loop instead of uploading their own.
  class LoopScope {
   public:
    LoopScope(CudaBackend& backend, CudaDecodeLoop& loop) : backend_(backend) {
      backend_.loop_ = &loop;
    }
    ~LoopScope() { backend_.loop_ = nullptr; }
    LoopScope(const LoopScope&) = delete;
    LoopScope& operator=(const LoopScope&) = delete;

   private:
    CudaBackend& backend_;
  };

 private:
  template <typename T>
  T* workspace(std::int64_t offset) const {
    return reinterpret_cast<T*>(workspace_.data() + offset);
  }
  StepTables& tables();
  void* round_norm(const Tensor& x, const NormArgs& norm, DType dtype);
  void multiply_rounded(const void* x, std::int64_t rows, const Matrix& weight, const Tensor* bias,
                        bool accumulate, Tensor& out);
  std::int64_t slots(const BackendLimits& limits) const;
  void decode(const AttentionArgs& args, const StepTables::Layer& layer, const Tensor& qkv,
              Tensor& out);
  void decode_recorded(const AttentionArgs& args, const Tensor& qkv, Tensor& out);
  DecodeArgs decode_args(const AttentionArgs& args, const Tensor& qkv, Tensor& out) const;
  void prefill(const AttentionArgs& args, const StepTables::Layer& layer, const Tensor& qkv,
               Tensor& out);

  // Order matters: memory goes back before its allocator and after the stream that uses it.
  std::string description_;
  DeviceAllocator allocator_;
  std::optional<DeviceGuard> guard_;  // while the members after it are made and destroyed
  Stream stream_;
  Uploader uploader_;
  BlasMatmul blas_;
  BackendLimits limits_;
  Storage workspace_;
  std::optional<WorkspaceLayout> layout_;
  std::optional<StepTables> tables_;
  PinnedBuffer read_back_;
  CudaDecodeLoop* loop_ = nullptr;
};

}  // namespace moa_rt::cuda
