// The arithmetic of sampling that host and device share, so that both choose the same token. Each
// step of runtime/sampler.h is here once.
#pragma once

#include <cstdint>
#include <limits>

#include "moa_rt/span.h"

namespace moa_rt {

// One output of SplitMix64 (Steele, Lea, Flood 2014).
MOA_RT_HOST_DEVICE inline std::uint64_t split_mix(std::uint64_t state) {
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ULL;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebULL;
  return state ^ (state >> 31);
}

// Uniform in [0, 1) with 53 bits. A function of its two arguments alone, so a request draws the
// same numbers whatever its batch: output `step` of SplitMix64 started from a hash of the seed.
MOA_RT_HOST_DEVICE inline double uniform_draw(std::uint64_t seed, std::uint64_t step) {
  constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15ULL;
  const std::uint64_t bits = split_mix(split_mix(seed + kGolden) + (step + 1) * kGolden);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

// Keeps adjusted logits finite: a penalty near 0 must not turn one into an infinity.
MOA_RT_HOST_DEVICE inline float saturate(double score) {
  constexpr auto kLargest = static_cast<double>(std::numeric_limits<float>::max());
  if (score > kLargest) score = kLargest;
  if (score < -kLargest) score = -kLargest;
  return static_cast<float>(score);
}

// A token that is ruled out stays so.
inline constexpr float kRuledOut = -std::numeric_limits<float>::infinity();

// A logit with its bias.
MOA_RT_HOST_DEVICE inline float biased(float score, double bias) {
  return score == kRuledOut ? score : saturate(static_cast<double>(score) + bias);
}

// The logit of a token that has been seen, `count` times in the output.
MOA_RT_HOST_DEVICE inline float penalised(float score, double repetition, double frequency,
                                          double presence, std::int32_t count) {
  if (score == kRuledOut) return score;
  const auto plain = static_cast<double>(score);
  double value = score > 0.0f ? plain / repetition : plain * repetition;
  value -= frequency * count;
  if (count > 0) value -= presence;
  return saturate(value);
}

}  // namespace moa_rt
