// Runs a test for every dtype on every instruction set that this processor has.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "moa_rt/error.h"
#include "ops/backend.h"

namespace moa_rt {

struct Variant {
  std::string isa;
  DType dtype;
};

inline void PrintTo(const Variant& variant, std::ostream* out) {
  *out << variant.isa << "/" << dtype_name(variant.dtype);
}

// Tries every name, so that what runs is decided by the processor and not by the list under test.
inline const std::vector<std::string>& runnable_isas() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> found;
    for (const char* isa : {"portable", "avx2", "avx512", "avx512_bf16"}) {
      try {
        (void)make_cpu_backend(1, isa);
        found.emplace_back(isa);
      } catch (const UnsupportedError&) {
        continue;
      }
    }
    return found;
  }();
  return names;
}

inline std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const std::string& isa : runnable_isas()) {
    all.push_back({isa, DType::kF32});
    all.push_back({isa, DType::kBF16});
  }
  return all;
}

inline std::string variant_name(const ::testing::TestParamInfo<Variant>& info) {
  return info.param.isa + (info.param.dtype == DType::kF32 ? "_f32" : "_bf16");
}

class BackendTest : public ::testing::TestWithParam<Variant> {
 public:
  static void SetUpTestSuite() {
    std::cout << "[ ISAs     ]";
    for (const std::string& isa : runnable_isas()) std::cout << " " << isa;
    std::cout << "\n";
  }

 protected:
  static DType dtype() { return GetParam().dtype; }
  static std::unique_ptr<Backend> make_backend(int threads = 2) {
    return make_cpu_backend(threads, GetParam().isa);
  }
  // What the backend makes of a value that enters a product.
  static float rounded(float x);
};

// Nearest bf16, ties to even, by definition: of the two neighbours the closer one.
inline float round_to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t low = bits & 0xffff0000u;
  const std::uint32_t high = low + 0x10000u;
  const double below = std::bit_cast<float>(low), above = std::bit_cast<float>(high);
  const double to_below = std::abs(static_cast<double>(x) - below);
  const double to_above = std::abs(above - static_cast<double>(x));
  if (to_below < to_above) return static_cast<float>(below);
  if (to_above < to_below) return static_cast<float>(above);
  return static_cast<float>((low & 0x10000u) == 0 ? below : above);
}

inline float BackendTest::rounded(float x) {
  return dtype() == DType::kBF16 ? round_to_bf16(x) : x;
}

inline std::vector<float> random_floats(std::int64_t count, std::uint32_t seed,
                                        float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// A view of (rows, cols) over somebody's floats.
inline Tensor matrix_view(std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return Tensor(values.data(), DType::kF32, {rows, cols});
}
inline Tensor vector_view(std::vector<float>& values) {
  return Tensor(values.data(), DType::kF32, {static_cast<std::int64_t>(values.size())});
}

// An output that shows where nothing was written.
inline std::vector<float> poisoned(std::int64_t count) {
  return std::vector<float>(static_cast<std::size_t>(count),
                            std::numeric_limits<float>::quiet_NaN());
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Loads a row-major float32 matrix, rounded to the dtype.
inline Matrix load_matrix(Backend& backend, const std::vector<float>& values, std::int64_t rows,
                          std::int64_t cols, DType dtype) {
  return backend.load_matrix(
      rows, cols, dtype, [&](std::int64_t begin, std::int64_t count, std::span<std::byte> out) {
        ASSERT_EQ(static_cast<std::int64_t>(out.size()), count * cols * size_of(dtype));
        for (std::int64_t i = 0; i < count * cols; ++i) {
          const float value = values[static_cast<std::size_t>(begin * cols + i)];
          if (dtype == DType::kF32) {
            std::memcpy(out.data() + i * 4, &value, 4);
          } else {
            const auto bits = static_cast<std::uint16_t>(
                std::bit_cast<std::uint32_t>(round_to_bf16(value)) >> 16);
            std::memcpy(out.data() + i * 2, &bits, 2);
          }
        }
      });
}

#define MOA_RT_FOR_EVERY_VARIANT(test_class) \
  INSTANTIATE_TEST_SUITE_P(Variants, test_class, ::testing::ValuesIn(variants()), variant_name)

}  // namespace moa_rt
