#include "cuda/runtime/matmul.h"

#include <string>
#include <utility>

#include "core/message.h"
#include "cuda/runtime/cublas_lt.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string message =
      std::string("cublasLt: ") + what + ": " + cublas_lt().status_name(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw ResourceError(message);
  throw DeviceError(message);
}

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kF32:
      return CUDA_R_32F;
  }
  throw InternalError("dtype of a matrix");
}

// Column-major, as cuBLAS counts.
BlasLayout make_layout(DType dtype, std::int64_t rows, std::int64_t cols) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_blas(cublas_lt().create_layout(&layout, data_type(dtype), static_cast<std::uint64_t>(rows),
                                       static_cast<std::uint64_t>(cols), rows),
             "matrix layout");
  return BlasLayout(layout);
}

template <typename Value>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t name, Value value) {
  check_blas(cublas_lt().set_description(description, name, &value, sizeof(value)),
             "matmul description");
}

template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name,
         Value value) {
  check_blas(cublas_lt().set_preference(preference, name, &value, sizeof(value)),
             "matmul preference");
}

// What every operand is aligned to at least: vectors of four floats.
constexpr std::uint32_t kOperandAlignment = 16;

BlasPreference make_preference() {
  cublasLtMatmulPreference_t created = nullptr;
  check_blas(cublas_lt().create_preference(&created), "matmul preference");
  BlasPreference preference(created);
  set(created, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<std::uint64_t>(BlasMatmul::kWorkspaceBytes));
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kOperandAlignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kOperandAlignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kOperandAlignment);
  set(created, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kOperandAlignment);
  return preference;
}

}  // namespace

// A handle belongs to the device that is current when it is made.
BlasMatmul::BlasMatmul(const DeviceContext& context) {
  const DeviceGuard guard(context);
  cublasLtHandle_t handle = nullptr;
  check_blas(cublas_lt().create(&handle), "handle");
  handle_ = BlasHandle(handle);
}

// Row-major out = x @ weight^T is column-major out^T = weight^T' @ x': both operands are read as
// column-major (K, N) and (K, M), the first transposed.
BlasMatmul::Product BlasMatmul::make(const Key& key) const {
  const auto [rows, outputs, inputs, dtype, has_bias, accumulate] = key;
  Product product;
  cublasLtMatmulDesc_t description = nullptr;
  check_blas(cublas_lt().create_description(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "description");
  product.description = BlasDescription(description);
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  if (has_bias) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
  }
  product.weight = make_layout(dtype, inputs, outputs);
  product.x = make_layout(dtype, inputs, rows);
  product.out = make_layout(DType::kF32, outputs, rows);

  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const BlasPreference preference = make_preference();
  const cublasStatus_t status = cublas_lt().heuristic(
      handle_.get(), description, product.weight.get(), product.x.get(), product.out.get(),
      product.out.get(), preference.get(), 1, &found, &count);
  if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
    throw UnsupportedError(
        describe({.item = "cublasLt",
                  .field = "matmul",
                  .got = std::to_string(rows) + " x " + std::to_string(outputs) + " x " +
                         std::to_string(inputs) + " " + dtype_name(dtype),
                  .want = std::string("a shape it has an algorithm for: ") +
                          cublas_lt().status_name(status)}));
  }
  product.algorithm = found.algo;
  return product;
}

BlasMatmul::Product& BlasMatmul::find(const Key& key) {
  const auto found = products_.find(key);
  if (found != products_.end()) return found->second;
  return products_.emplace(key, make(key)).first->second;
}

void BlasMatmul::run(const void* x, std::int64_t rows, const Matrix& weight, const float* bias,
                     bool accumulate, float* out, void* workspace, cudaStream_t stream) {
  Product& product =
      find({rows, weight.rows, weight.cols, weight.dtype, bias != nullptr, accumulate});
  if (bias != nullptr) {
    set(product.description.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  const float one = 1.0f;
  const float keep = accumulate ? 1.0f : 0.0f;
  check_blas(
      cublas_lt().matmul(handle_.get(), product.description.get(), &one, weight.storage.data(),
                         product.weight.get(), x, product.x.get(), &keep, out, product.out.get(),
                         out, product.out.get(), &product.algorithm, workspace,
                         static_cast<std::size_t>(kWorkspaceBytes), stream),
      "matmul");
}

}  // namespace moa_rt::cuda
