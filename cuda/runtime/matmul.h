// Products of activations and weight matrices through cuBLASLt.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>

#include "core/tensor.h"
#include "cuda/runtime/device_context.h"
#include "cuda/runtime/handles.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

// Chooses an algorithm once for each shape and keeps it: the same shapes give the same bits.
class BlasMatmul {
 public:
  // For products on streams of this device.
  explicit BlasMatmul(const DeviceContext& context);

  static constexpr std::int64_t kWorkspaceBytes = std::int64_t{32} << 20;

  // out (M, N) float32 = x (M, K) of weight's dtype @ weight (N, K)^T [+ bias] [+ out], accumulated
  // in float32. workspace: kWorkspaceBytes of device memory.
  void run(const void* x, std::int64_t rows, const Matrix& weight, const float* bias,
           bool accumulate, float* out, void* workspace, cudaStream_t stream);

 private:
  struct Product {
    BlasDescription description;
    BlasLayout weight;
    BlasLayout x;
    BlasLayout out;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  // rows, N, K, dtype, bias, accumulate
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, DType, bool, bool>;

  Product& find(const Key& key);
  Product make(const Key& key) const;

  BlasHandle handle_;
  std::map<Key, Product> products_;
};

}  // namespace moa_rt::cuda
