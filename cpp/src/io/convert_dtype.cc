#include "io/convert_dtype.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "moa_rt/error.h"

namespace moa_rt {
namespace {

template <DType Type>
struct Codec;

template <>
struct Codec<DType::kF32> {
  using Bits = std::uint32_t;
  static float decode(Bits bits) { return std::bit_cast<float>(bits); }
  static Bits encode(float value) { return std::bit_cast<Bits>(value); }
};

template <>
struct Codec<DType::kBF16> {
  using Bits = std::uint16_t;
  static float decode(Bits bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
  static Bits encode(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    // Rounding could carry a NaN's payload into infinity: keep its upper half, made quiet.
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bits>((bits >> 16) | 0x40u);
    return static_cast<Bits>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

template <>
struct Codec<DType::kF16> {
  using Bits = std::uint16_t;

  static float decode(Bits half) {
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t exponent = (half >> 10) & 0x1fu;
    const std::uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float32
      const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
    return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
  }

  static Bits encode(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint32_t>((bits >> 16) & 0x8000u);
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {  // NaN, made quiet
      return static_cast<Bits>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    }
    if (magnitude >= 0x47800000u) return static_cast<Bits>(sign | 0x7c00u);  // 2^16 and above
    if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by the addition
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return static_cast<Bits>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
    }
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<Bits>(sign | ((rounded - (112u << 23)) >> 13));
  }
};

template <DType From, DType To>
void convert(const std::byte* source, std::byte* destination, std::size_t count) {
  using FromBits = typename Codec<From>::Bits;
  using ToBits = typename Codec<To>::Bits;
  for (std::size_t i = 0; i < count; ++i) {
    FromBits in;
    std::memcpy(&in, source + i * sizeof(in), sizeof(in));
    const ToBits out = Codec<To>::encode(Codec<From>::decode(in));
    std::memcpy(destination + i * sizeof(out), &out, sizeof(out));
  }
}

template <DType From>
void convert_from(const std::byte* source, DType to, std::byte* destination, std::size_t count) {
  switch (to) {
    case DType::kF32:
      return convert<From, DType::kF32>(source, destination, count);
    case DType::kBF16:
      return convert<From, DType::kBF16>(source, destination, count);
    case DType::kF16:
      return convert<From, DType::kF16>(source, destination, count);
  }
}

}  // namespace

void convert_elements(std::span<const std::byte> source, DType from,
                      std::span<std::byte> destination, DType to) {
  const std::size_t count = source.size() / static_cast<std::size_t>(size_of(from));
  if (source.size() != count * static_cast<std::size_t>(size_of(from)) ||
      destination.size() != count * static_cast<std::size_t>(size_of(to))) {
    throw InternalError("convert_elements: sizes differ");
  }
  if (from == to) {
    if (count > 0) std::memcpy(destination.data(), source.data(), source.size());
    return;
  }
  switch (from) {
    case DType::kF32:
      return convert_from<DType::kF32>(source.data(), to, destination.data(), count);
    case DType::kBF16:
      return convert_from<DType::kBF16>(source.data(), to, destination.data(), count);
    case DType::kF16:
      return convert_from<DType::kF16>(source.data(), to, destination.data(), count);
  }
}

}  // namespace moa_rt
