#include "runtime/logits.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "core/message.h"
#include "moa_rt/error.h"
#include "ops/logit_fault.h"

namespace moa_rt {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

[[noreturn]] void fail_not_finite(std::span<const float> logits) {
  std::int32_t token = 0;
  const LogitFault fault = find_logit_fault(logits, token);
  fail_logits(fault, token);
}

double log_sum_exp(std::span<const float> logits, float top) {
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit) - static_cast<double>(top));
  }
  return static_cast<double>(top) + std::log(sum);
}

void check_token(std::span<const float> logits, std::int64_t token) {
  if (token >= 0 && token < static_cast<std::int64_t>(logits.size())) return;
  throw ArgumentError(describe({.field = "token",
                                .got = std::to_string(token),
                                .want = "0.." + std::to_string(logits.size() - 1)}));
}

}  // namespace

void fail_logits(LogitFault fault, std::int64_t token) {
  if (fault == LogitFault::kNothingLeft) {
    throw NumericError(
        describe({.item = "logits", .got = "-inf for every token", .want = "a finite number"}));
  }
  throw NumericError(describe({.item = "logits",
                               .field = "token " + std::to_string(token),
                               .got = fault == LogitFault::kNotANumber ? "NaN" : "+inf",
                               .want = "a finite number"}));
}

float finite_max(std::span<const float> logits) {
  // Independent lanes, so that the compiler can use vector registers without reordering rules.
  constexpr std::size_t kLanes = 16;
  std::array<float, kLanes> top;
  top.fill(kNone);
  std::array<std::uint32_t, kLanes> bad{};
  std::size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const float logit = logits[i + lane];
      top[lane] = logit > top[lane] ? logit : top[lane];
      bad[lane] |= logit <= kLargestLogit ? 0u : 1u;  // NaN and +inf fail the comparison
    }
  }
  for (; i < logits.size(); ++i) {
    top[0] = logits[i] > top[0] ? logits[i] : top[0];
    bad[0] |= logits[i] <= kLargestLogit ? 0u : 1u;
  }
  const float largest = *std::max_element(top.begin(), top.end());
  const bool any_bad = std::any_of(bad.begin(), bad.end(), [](std::uint32_t b) { return b != 0; });
  if (any_bad || largest == kNone) fail_not_finite(logits);
  return largest;
}

std::int32_t first_equal(std::span<const float> logits, float value) {
  return static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), value) - logits.begin());
}

TokenLogprob token_logprob(std::span<const float> logits, std::int32_t token,
                           std::int64_t top_count) {
  check_token(logits, token);
  const double total = log_sum_exp(logits, finite_max(logits));
  const auto count = static_cast<std::size_t>(
      std::clamp<std::int64_t>(top_count, 0, static_cast<std::int64_t>(logits.size())));
  TokenLogprob result;
  result.token = token;
  result.logprob = static_cast<float>(logits[static_cast<std::size_t>(token)] - total);
  result.top.reserve(count + 1);
  // A short sorted list, few of whose slots ever change: no work array of the vocabulary's size.
  for (std::size_t i = 0; i < logits.size() && count > 0; ++i) {
    if (result.top.size() == count && !(logits[i] > result.top.back().second)) continue;
    const auto lower = [](float logit, const auto& entry) { return logit > entry.second; };
    const auto place = std::upper_bound(result.top.begin(), result.top.end(), logits[i], lower);
    result.top.insert(place, {static_cast<std::int32_t>(i), logits[i]});
    if (result.top.size() > count) result.top.pop_back();
  }
  for (auto& [id, value] : result.top) value = static_cast<float>(value - total);
  return result;
}

}  // namespace moa_rt
