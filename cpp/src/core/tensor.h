// A dense row-major view of memory, with or without the memory's ownership.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "core/allocator.h"
#include "moa_rt/types.h"

namespace moa_rt {

inline constexpr int kMaxRank = 4;

// Contiguous, row-major, at most rank 4. Move-only: keep the owner, hand out view().
class Tensor {
 public:
  Tensor() = default;
  // A view of memory that somebody else owns.
  Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> shape);
  // Owns its memory. Throws ResourceError.
  static Tensor allocate(Allocator& allocator, DType dtype,
                         std::initializer_list<std::int64_t> shape);

  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;

  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  std::int64_t dim(int axis) const { return shape_[static_cast<std::size_t>(axis)]; }
  std::int64_t elements() const;
  std::int64_t bytes() const { return elements() * size_of(dtype_); }
  bool empty() const { return data_ == nullptr; }

  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  // Non-owning view of the whole, or of rows [begin, begin + rows) of the first axis.
  Tensor view() const;
  Tensor rows(std::int64_t begin, std::int64_t rows) const;

 private:
  Storage storage_;
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<std::int64_t, kMaxRank> shape_{};
};

}  // namespace moa_rt
