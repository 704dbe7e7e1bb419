// Oracle: the value of a bit pattern from the definition of the formats, and the nearest of all
// values.
#include "io/convert_dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "moa_rt/error.h"

namespace moa_rt {
namespace {

struct Format {
  DType dtype;
  int exponent_bits;
  int fraction_bits;
};
constexpr Format kFormats[] = {{DType::kBF16, 8, 7}, {DType::kF16, 5, 10}};

// (-1)^s * 2^(e - bias) * 1.f, as IEEE 754 defines it for any widths.
double value_of(std::uint16_t bits, const Format& format) {
  const int exponent = (bits >> format.fraction_bits) & ((1 << format.exponent_bits) - 1);
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const int bias = (1 << (format.exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << format.exponent_bits) - 1) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - format.fraction_bits);
  return sign *
         std::ldexp(fraction + (1 << format.fraction_bits), exponent - bias - format.fraction_bits);
}

template <typename To, typename From>
std::vector<To> convert(const std::vector<From>& values, DType from, DType to) {
  std::vector<To> out(values.size());
  convert_elements(std::as_bytes(std::span(values)), from, std::as_writable_bytes(std::span(out)),
                   to);
  return out;
}

// Nearest representable magnitude, ties to the even pattern, by bisection over all patterns.
std::uint16_t nearest(float value, const Format& format) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(value));
  const auto infinity =
      static_cast<std::uint16_t>(((1 << format.exponent_bits) - 1) << format.fraction_bits);
  std::uint16_t low = 0;
  std::uint16_t high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (value_of(middle, format) <= magnitude ? low : high) = middle;
  }
  // Infinity stands where the next finite number would be.
  const double step = value_of(low, format) - value_of(static_cast<std::uint16_t>(low - 1), format);
  const double above = high == infinity ? value_of(low, format) + step : value_of(high, format);
  const double to_low = magnitude - value_of(low, format);
  const double to_high = above - magnitude;
  if (to_low == to_high) return sign | (low % 2 == 0 ? low : high);
  return sign | (to_low < to_high ? low : high);
}

TEST(ConvertDtype, EveryPatternWidensExactly) {
  for (const Format& format : kFormats) {
    std::vector<std::uint16_t> patterns(65536);
    for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
    const auto wide = convert<float>(patterns, format.dtype, DType::kF32);
    const auto back = convert<std::uint16_t>(wide, DType::kF32, format.dtype);
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      const double want = value_of(patterns[i], format);
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(wide[i])) << i;
        EXPECT_TRUE(std::isnan(value_of(back[i], format))) << i;
      } else {
        EXPECT_EQ(static_cast<double>(wide[i]), want) << i;
        EXPECT_EQ(back[i], patterns[i]) << i;  // the sign of zero included
      }
    }
  }
}

TEST(ConvertDtype, RoundsToNearestEven) {
  std::mt19937 random(7);
  std::vector<float> values;
  for (int i = 0; i < 200'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const Format& format : kFormats) {
    // Numbers around the format's own range, and exact ties between neighbours.
    for (int i = 0; i < 100'000; ++i) {
      values.push_back(
          std::ldexp(static_cast<float>(random() % 4096), static_cast<int>(random() % 48) - 40));
      const auto bits = static_cast<std::uint16_t>(random() % 0x7bff);
      const double middle =
          (value_of(bits, format) + value_of(static_cast<std::uint16_t>(bits + 1), format)) / 2;
      values.push_back(static_cast<float>(middle));
    }
    const auto got = convert<std::uint16_t>(values, DType::kF32, format.dtype);
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(got[i], nearest(values[i], format)) << values[i];
    }
  }
}

TEST(ConvertDtype, HalfToBfloat16IsOneRounding) {
  std::vector<std::uint16_t> patterns;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    if (std::isfinite(value_of(bits, kFormats[1]))) patterns.push_back(bits);
  }
  const auto got = convert<std::uint16_t>(patterns, DType::kF16, DType::kBF16);
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    EXPECT_EQ(got[i], nearest(static_cast<float>(value_of(patterns[i], kFormats[1])), kFormats[0]));
  }
}

TEST(ConvertDtype, TooLargeForHalfIsInfinite) {
  const auto got = convert<std::uint16_t>(std::vector<float>{65519.0f, 65520.0f, -1e30f, INFINITY},
                                          DType::kF32, DType::kF16);
  EXPECT_EQ(got, (std::vector<std::uint16_t>{0x7bff, 0x7c00, 0xfc00, 0x7c00}));
}

TEST(ConvertDtype, UnalignedAndEqualTypes) {
  const std::vector<float> values = {1.5f, -2.0f};
  std::vector<std::byte> shifted(9);
  std::memcpy(shifted.data() + 1, values.data(), 8);
  std::vector<std::byte> out(5);
  convert_elements(std::span(shifted).subspan(1), DType::kF32, std::span(out).subspan(1),
                   DType::kBF16);
  std::uint16_t first = 0;
  std::memcpy(&first, out.data() + 1, 2);
  EXPECT_EQ(first, 0x3fc0);
  std::vector<float> same(2);
  convert_elements(std::as_bytes(std::span(values)), DType::kF32,
                   std::as_writable_bytes(std::span(same)), DType::kF32);
  EXPECT_EQ(same, values);
}

TEST(ConvertDtype, SizesThatDisagree) {
  std::vector<std::byte> bytes(7);
  EXPECT_THROW(convert_elements(std::span(bytes).first(6), DType::kF16, std::span(bytes).first(4),
                                DType::kBF16),
               InternalError);
  EXPECT_THROW(convert_elements(bytes, DType::kF16, std::span(bytes).first(6), DType::kBF16),
               InternalError);
}

}  // namespace
}  // namespace moa_rt
