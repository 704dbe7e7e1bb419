// Test data on the device, in the types of the backend.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "ops/backend.h"
#include "support/tolerance.h"

namespace moa_rt::testing {

// Nearest value of a binary floating-point type with `digits` bits of mantissa and the smallest
// exponent `low`, ties to even, by definition.
inline float round_to(float x, int digits, int low) {
  if (x == 0.0f || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int unit = std::max(exponent - digits, low);
  return static_cast<float>(
      std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(x), -unit)), unit));
}

inline float rounded(float x, DType dtype) {
  if (dtype == DType::kBF16) return round_to(x, 8, -133);
  if (dtype == DType::kF16) return round_to(x, 11, -24);
  return x;
}

// The bits of a value that `dtype` holds exactly.
inline std::uint16_t bits_of(float x, DType dtype) {
  if (dtype == DType::kBF16)
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (size < std::ldexp(1.0f, -14)) {
    return static_cast<std::uint16_t>(sign | static_cast<int>(std::ldexp(size, 24)));
  }
  int exponent = 0;
  const float mantissa = std::frexp(size, &exponent);  // [0.5, 1)
  const int fraction = static_cast<int>(std::ldexp(mantissa, 11)) - 1024;
  return static_cast<std::uint16_t>(sign | ((exponent + 14) << 10) | fraction);
}

// About normal, exact in the dtype: the sum of four uniform numbers, cut to the dtype's mantissa.
// Much faster than std::normal_distribution, which would take most of a test's time.
inline std::vector<float> random_rounded(std::int64_t count, std::uint32_t seed, DType dtype,
                                         float scale = 1.0f) {
  const std::uint32_t keep = dtype == DType::kBF16  ? 0xffff0000u
                             : dtype == DType::kF16 ? 0xffffe000u
                                                    : 0xffffffffu;
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (float& value : values) {
    std::uint64_t bits = state += 0x9e3779b97f4a7c15u;  // splitmix64
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    const auto sum = static_cast<std::int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                               (bits >> 32 & 0xffff) + (bits >> 48));
    const float x = scale * static_cast<float>(sum - 2 * 65535) / 37837.0f;
    value =
        std::fabs(x) < 1e-4f ? 0.0f : std::bit_cast<float>(std::bit_cast<std::uint32_t>(x) & keep);
  }
  return values;
}

inline Tensor on_device(Backend& backend, const std::vector<float>& values,
                        std::initializer_list<std::int64_t> shape) {
  Tensor tensor = Tensor::allocate(backend.allocator(), DType::kF32, shape);
  backend.copy_to_device(tensor, values.data());
  return tensor;
}

// NaN everywhere: shows what was not written.
inline Tensor poisoned_on_device(Backend& backend, std::initializer_list<std::int64_t> shape) {
  Tensor tensor = Tensor::allocate(backend.allocator(), DType::kF32, shape);
  const std::vector<float> values(static_cast<std::size_t>(tensor.elements()),
                                  std::numeric_limits<float>::quiet_NaN());
  backend.copy_to_device(tensor, values.data());
  return tensor;
}

inline std::vector<float> to_host(Backend& backend, const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  backend.copy_to_host(values.data(), tensor);
  return values;
}

inline Matrix matrix_on_device(Backend& backend, const std::vector<float>& values,
                               std::int64_t rows, std::int64_t cols, DType dtype) {
  return backend.load_matrix(
      rows, cols, dtype, [&](std::int64_t begin, std::int64_t count, std::span<std::byte> out) {
        for (std::int64_t i = 0; i < count * cols; ++i) {
          const std::uint16_t bits =
              bits_of(values[static_cast<std::size_t>(begin * cols + i)], dtype);
          std::memcpy(out.data() + i * 2, &bits, 2);
        }
      });
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline double largest(const std::vector<float>& values) {
  double size = 0.0;
  for (const float x : values) size = std::max(size, std::fabs(static_cast<double>(x)));
  return size;
}

}  // namespace moa_rt::testing
