// Logits for tests of sampling.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <vector>

namespace moa_rt::testing {

// Normal, with equal ones and some that are ruled out; `scale` 0.01 is flat, 10 peaked.
inline std::vector<float> random_logits(std::mt19937_64& random, std::size_t count, double scale) {
  std::normal_distribution<float> normal(0.0f, static_cast<float>(scale));
  std::vector<float> logits(count);
  for (float& x : logits) {
    x = normal(random);
    if (random() % 64 == 0) x = std::round(x);
    if (random() % 256 == 0) x = -std::numeric_limits<float>::infinity();
  }
  return logits;
}

}  // namespace moa_rt::testing
