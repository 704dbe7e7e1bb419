#include "model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moa_rt {
namespace {

// Positions computed and copied at a time.
constexpr std::int64_t kBlock = 1024;

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
float llama3_frequency(float frequency, const RopeConfig& rope) {
  const auto context = static_cast<float>(rope.original_max_position_embeddings);
  const auto factor = static_cast<float>(rope.factor);
  const double low = rope.low_freq_factor;
  const double high = rope.high_freq_factor;
  const auto low_wavelength =
      static_cast<float>(static_cast<double>(rope.original_max_position_embeddings) / low);
  const auto high_wavelength =
      static_cast<float>(static_cast<double>(rope.original_max_position_embeddings) / high);
  // torch divides a number by a tensor as number * (1 / tensor); the rounding is kept.
  const float wavelength = (1.0f / frequency) * static_cast<float>(2.0 * std::numbers::pi);
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const float smooth =
      ((1.0f / wavelength) * context - static_cast<float>(low)) / static_cast<float>(high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

float scaled_frequency(float frequency, const RopeConfig& rope) {
  switch (rope.type) {
    case RopeType::kLinear:
      return frequency / static_cast<float>(rope.factor);
    case RopeType::kLlama3:
      return llama3_frequency(frequency, rope);
    case RopeType::kDefault:
      break;
  }
  return frequency;
}

}  // namespace

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  std::vector<float> frequencies(static_cast<std::size_t>(head_dim / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    const auto power = static_cast<float>(std::pow(
        static_cast<double>(static_cast<float>(rope.theta)), static_cast<double>(exponent)));
    frequencies[i] = scaled_frequency(1.0f / power, rope);
  }
  return frequencies;
}

RopeTable make_rope_table(const ModelConfig& config, std::int64_t positions, Backend& backend) {
  const std::vector<float> frequencies = rope_inverse_frequencies(config.rope, config.head_dim);
  const auto half = static_cast<std::int64_t>(frequencies.size());
  RopeTable table;
  table.cos = Tensor::allocate(backend.allocator(), DType::kF32, {positions, half});
  table.sin = Tensor::allocate(backend.allocator(), DType::kF32, {positions, half});
  std::vector<float> cos;
  std::vector<float> sin;
  for (std::int64_t begin = 0; begin < positions; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, positions - begin);
    cos.clear();
    sin.clear();
    for (std::int64_t position = begin; position < begin + count; ++position) {
      for (const float frequency : frequencies) {
        const auto angle = static_cast<double>(static_cast<float>(position) * frequency);
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    Tensor cos_rows = table.cos.rows(begin, count);
    Tensor sin_rows = table.sin.rows(begin, count);
    backend.copy_to_device(cos_rows, cos.data());
    backend.copy_to_device(sin_rows, sin.data());
  }
  return table;
}

}  // namespace moa_rt
