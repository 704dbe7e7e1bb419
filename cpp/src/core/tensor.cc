#include "core/tensor.h"

#include <algorithm>

#include "moa_rt/error.h"

namespace moa_rt {

Tensor::Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape)
    : data_(data), dtype_(dtype), rank_(static_cast<int>(shape.size())) {
  if (rank_ > kMaxRank) throw InternalError("tensor of rank " + std::to_string(rank_));
  std::copy(shape.begin(), shape.end(), shape_.begin());
}

Tensor Tensor::allocate(Allocator& allocator, DType dtype,
                        std::initializer_list<std::int64_t> shape) {
  Tensor tensor(nullptr, dtype, shape);
  tensor.storage_ = Storage(allocator, tensor.bytes());
  tensor.data_ = tensor.storage_.data();
  return tensor;
}

std::int64_t Tensor::elements() const {
  std::int64_t count = 1;
  for (int axis = 0; axis < rank_; ++axis) count *= dim(axis);
  return count;
}

Tensor Tensor::view() const {
  Tensor out;
  out.data_ = data_;
  out.dtype_ = dtype_;
  out.rank_ = rank_;
  out.shape_ = shape_;
  return out;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t rows) const {
  if (rank_ == 0 || begin < 0 || rows < 0 || begin + rows > dim(0)) {
    throw InternalError("tensor rows out of range");
  }
  Tensor out = view();
  const std::int64_t row_bytes = dim(0) == 0 ? 0 : bytes() / dim(0);
  out.data_ = static_cast<std::byte*>(data_) + begin * row_bytes;
  out.shape_[0] = rows;
  return out;
}

}  // namespace moa_rt
