// From run-time types and head sizes to template arguments.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "core/message.h"
#include "cuda/device/numeric.cuh"
#include "moa_rt/error.h"
#include "moa_rt/types.h"

namespace moa_rt::cuda {

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls body(TypeTag<T>{}) for a 16-bit type.
template <typename Body>
decltype(auto) dispatch_dtype(DType dtype, Body&& body) {
  if (dtype == DType::kBF16) return std::forward<Body>(body)(TypeTag<Bf16>{});
  if (dtype == DType::kF16) return std::forward<Body>(body)(TypeTag<F16>{});
  throw UnsupportedError(describe(
      {.item = "cuda", .field = "dtype", .got = dtype_name(dtype), .want = "bfloat16 or float16"}));
}

// Calls body(TypeTag<T>{}, std::integral_constant<int, D>{}).
template <typename Body>
decltype(auto) dispatch_attention(DType dtype, int head_dim, Body&& body) {
  return dispatch_dtype(dtype, [&](auto tag) -> decltype(auto) {
    if (head_dim == 64) return body(tag, std::integral_constant<int, 64>{});
    if (head_dim == 80) return body(tag, std::integral_constant<int, 80>{});
    if (head_dim == 96) return body(tag, std::integral_constant<int, 96>{});
    if (head_dim == 128) return body(tag, std::integral_constant<int, 128>{});
    throw UnsupportedError(describe({.item = "cuda",
                                     .field = "head_dim",
                                     .got = std::to_string(head_dim),
                                     .want = "64, 80, 96 or 128"}));
  });
}

}  // namespace moa_rt::cuda
