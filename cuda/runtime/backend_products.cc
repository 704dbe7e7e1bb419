// Products of the CUDA backend: which kernel takes which number of rows, and what is done on the
// way.
#include "cuda/ops/ops.h"
#include "cuda/runtime/cuda_backend.h"

namespace moa_rt::cuda {
namespace {

bool is_small(std::int64_t rows, const Matrix& weight) {
  return small_matmul_takes(rows, weight.cols);
}

const float* data_or_null(const Tensor* x) { return x == nullptr ? nullptr : x->data<float>(); }

// out.dim(1) columns; the caller adds what else the product does.
SmallMatmul small_product(const Tensor& x, const Matrix& weight, Tensor& out) {
  SmallMatmul product;
  product.x = x.data<float>();
  product.rows = x.dim(0);
  product.weight = weight.storage.data();
  product.dtype = weight.dtype;
  product.outputs = out.dim(1);
  product.inputs = weight.cols;
  product.out = out.data<float>();
  return product;
}

}  // namespace

void CudaBackend::matmul(const Tensor& x, const Matrix& weight, const Tensor* bias, bool accumulate,
                         Tensor& out) {
  if (x.dim(0) == 0) return;
  const DeviceGuard guard(context());
  if (is_small(x.dim(0), weight)) {
    SmallMatmul product = small_product(x, weight, out);
    product.bias = data_or_null(bias);
    product.accumulate = accumulate;
    launch_small_matmul(product, stream_.get());
    return;
  }
  void* const converted = workspace<void>(tables().layout().converted);
  launch_convert(x.data<float>(), x.elements(), weight.dtype, converted, stream_.get());
  multiply_rounded(converted, x.dim(0), weight, bias, accumulate, out);
}

void CudaBackend::norm_matmul(const Tensor& x, const NormArgs& norm, const Matrix& weight,
                              const Tensor* bias, Tensor& /*normed*/, Tensor& out) {
  if (x.dim(0) == 0) return;
  const DeviceGuard guard(context());
  if (!is_small(x.dim(0), weight)) {
    multiply_rounded(round_norm(x, norm, weight.dtype), x.dim(0), weight, bias, false, out);
    return;
  }
  SmallMatmul product = small_product(x, weight, out);
  product.bias = data_or_null(bias);
  product.norm = norm.weight->data<float>();
  product.eps = static_cast<float>(norm.eps);
  launch_small_matmul(product, stream_.get());
}

void CudaBackend::mlp(const MlpArgs& args, Tensor& x) {
  const std::int64_t rows = x.dim(0);
  if (rows == 0) return;
  const DeviceGuard guard(context());
  if (is_small(rows, *args.gate_up)) {
    SmallMatmul product = small_product(x, *args.gate_up, *args.gated);
    product.norm = args.norm.weight->data<float>();
    product.eps = static_cast<float>(args.norm.eps);
    product.gated = true;
    launch_small_matmul(product, stream_.get());
    matmul(*args.gated, *args.down, nullptr, true, x);
    return;
  }
  multiply_rounded(round_norm(x, args.norm, args.gate_up->dtype), rows, *args.gate_up, nullptr,
                   false, *args.gate_up_rows);
  if (is_small(rows, *args.down)) {
    silu_mul(*args.gate_up_rows, *args.gated);
    matmul(*args.gated, *args.down, nullptr, true, x);
    return;
  }
  void* const converted = workspace<void>(tables().layout().converted);
  launch_silu_mul_rounded(args.gate_up_rows->data<float>(), rows, args.down->cols, args.down->dtype,
                          converted, stream_.get());
  multiply_rounded(converted, rows, *args.down, nullptr, true, x);
}

void* CudaBackend::round_norm(const Tensor& x, const NormArgs& norm, DType dtype) {
  void* const converted = workspace<void>(tables().layout().converted);
  launch_rms_norm_rounded(x.data<float>(), norm.weight->data<float>(), static_cast<float>(norm.eps),
                          x.dim(0), x.dim(1), dtype, converted, stream_.get());
  return converted;
}

void CudaBackend::multiply_rounded(const void* x, std::int64_t rows, const Matrix& weight,
                                   const Tensor* bias, bool accumulate, Tensor& out) {
  blas_.run(x, rows, weight, data_or_null(bias), accumulate, out.data<float>(),
            workspace<void>(tables().layout().blas), stream_.get());
}

}  // namespace moa_rt::cuda
