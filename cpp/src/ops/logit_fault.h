// What makes a row of logits useless.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "ops/decode_loop.h"

namespace moa_rt {

inline constexpr float kLargestLogit = std::numeric_limits<float>::max();

// The first NaN or +inf of a row, its place in `token`; kNothingLeft where there is neither: the
// row, which some check has refused, holds nothing but -inf (L1, L2).
LogitFault find_logit_fault(std::span<const float> logits, std::int32_t& token);

}  // namespace moa_rt
