#include "ops/logit_fault.h"

#include <algorithm>
#include <cmath>

namespace moa_rt {

LogitFault find_logit_fault(std::span<const float> logits, std::int32_t& token) {
  // NaN and +inf fail the comparison.
  const auto found =
      std::ranges::find_if(logits, [](float logit) { return !(logit <= kLargestLogit); });
  if (found == logits.end()) {
    token = 0;
    return LogitFault::kNothingLeft;
  }
  token = static_cast<std::int32_t>(found - logits.begin());
  return std::isnan(*found) ? LogitFault::kNotANumber : LogitFault::kInfinite;
}

}  // namespace moa_rt
