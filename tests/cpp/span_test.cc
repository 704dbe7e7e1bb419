// Spans, slots and the mask against oracles in 128-bit integers, written from the definition.
#include "moa_rt/span.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace {

using moa_rt::HeadSpan;
using moa_rt::SpanRule;
using Wide = __int128;

constexpr std::int64_t kOne = std::int64_t{1} << 32;

// ceil to a multiple of `multiple` of clamp(min(alpha + beta * n, max_span), sink + rounding, n),
// all in units of 2^-32 token, so nothing is rounded before the end.
std::int64_t oracle_span(const SpanRule& rule, std::int64_t sink, std::int64_t rounding,
                         std::int64_t n) {
  Wide value = static_cast<Wide>(rule.alpha) * kOne + static_cast<Wide>(rule.beta_q32) * n;
  if (rule.max_span > 0) value = std::min(value, static_cast<Wide>(rule.max_span) * kOne);
  value = std::max(value, static_cast<Wide>(sink + rounding) * kOne);
  value = std::min(value, static_cast<Wide>(n) * kOne);
  const Wide unit = static_cast<Wide>(rounding) * kOne;
  return static_cast<std::int64_t>((value + unit - 1) / unit) * rounding;  // value >= 0 here
}

SpanRule random_rule(std::mt19937_64& random, std::int64_t sink, std::int64_t rounding) {
  const auto below = [&random](std::int64_t limit) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit));
  };
  SpanRule rule;
  const std::int64_t magnitude = std::int64_t{1} << below(22);
  rule.alpha = below(2 * magnitude + 1) - magnitude;
  switch (below(4)) {
    case 0:
      rule.beta_q32 = below(2) * kOne;
      break;
    case 1:
      rule.beta_q32 = kOne * below(101) / 100;
      break;
    default:
      rule.beta_q32 = below(kOne + 1);
  }
  if (below(3) == 0) {
    const std::int64_t least = (sink + 2 * rounding - 1) / rounding * rounding;
    rule.max_span = std::min(moa_rt::kMaxTokens, least + below(4096) * rounding);
  }
  return rule;
}

TEST(Span, E12_spans_are_integer_exact) {
  std::mt19937_64 random(20240614);
  int differences = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const std::int64_t rounding = std::int64_t{1} << (random() % 11);
    const std::int64_t sink = static_cast<std::int64_t>(random() % 257);
    const SpanRule rule = random_rule(random, sink, rounding);
    const std::uint64_t scale = std::uint64_t{1} << (1 + random() % 21);
    const std::int64_t n = 1 + static_cast<std::int64_t>(random() % scale);
    const HeadSpan head = moa_rt::resolve_span(rule, sink, rounding, n);
    const std::int64_t want = oracle_span(rule, sink, rounding, n);
    if (head.span() != want) ++differences;
    if (head.window < 1 || head.sink < 0 || head.sink > sink) ++differences;
  }
  EXPECT_EQ(differences, 0);
}

TEST(Span, E7_more_than_n_is_dense) {
  for (const std::int64_t n : {1, 63, 64, 65, 127, 128, 129, 1000, 4096}) {
    const HeadSpan head = moa_rt::resolve_span({.alpha = 100000, .beta_q32 = kOne}, 64, 64, n);
    EXPECT_EQ(head.span(), (n + 63) / 64 * 64);
    for (std::int64_t q = 0; q < n; ++q) ASSERT_TRUE(moa_rt::visible(head, q, 0));
  }
}

TEST(Span, E10_rounds_up_never_down) {
  const SpanRule rule{.alpha = 129, .beta_q32 = 0};
  EXPECT_EQ(moa_rt::resolve_span(rule, 64, 64, 4096), (HeadSpan{64, 128}));
  EXPECT_EQ(moa_rt::resolve_span(rule, 64, 1, 4096), (HeadSpan{64, 65}));
  EXPECT_EQ(moa_rt::resolve_span({.alpha = 1, .beta_q32 = 1}, 0, 1, 4096), (HeadSpan{0, 2}));
  EXPECT_EQ(moa_rt::resolve_span({.alpha = -2048, .beta_q32 = kOne / 2}, 64, 64, 4096),
            (HeadSpan{64, 64}));
}

TEST(Span, resolves_at_compile_time) {
  static_assert(moa_rt::resolve_span({.alpha = 0, .beta_q32 = kOne / 2}, 64, 64, 4096).span() ==
                2048);
  static_assert(moa_rt::round_up(-1, 64) == 0 && moa_rt::round_up(1, 64) == 64);
  static_assert(moa_rt::round_up(-64, 64) == -64 && moa_rt::round_up(-65, 64) == -64);
}

// A head shorter than its sequence: positions beyond the span share slots exactly as a ring does,
// and two visible keys never share one.
TEST(Span, visible_keys_have_slots_of_their_own) {
  for (std::int64_t sink = 0; sink <= 4; ++sink) {
    for (std::int64_t window = 1; window <= 8; ++window) {
      const HeadSpan head{sink, window};
      for (std::int64_t q = 0; q < 60; ++q) {
        std::set<std::int64_t> slots;
        std::int64_t seen = 0;
        for (std::int64_t k = 0; k < 70; ++k) {
          const bool want = k <= q && (k < sink || k > q - window);
          ASSERT_EQ(moa_rt::visible(head, q, k), want);
          if (!want) continue;
          ASSERT_TRUE(k < sink || k >= moa_rt::window_start(head, q));
          ASSERT_LT(moa_rt::slot_of(head, k), head.span());
          slots.insert(moa_rt::slot_of(head, k));
          ++seen;
        }
        ASSERT_EQ(static_cast<std::int64_t>(slots.size()), seen);
        ASSERT_EQ(seen, moa_rt::filled_slots(head, q + 1));
      }
    }
  }
}

TEST(Span, E10_short_sequences_keep_a_window) {
  for (std::int64_t n = 1; n <= 200; ++n) {
    const HeadSpan head = moa_rt::resolve_span({}, 64, 64, n);
    EXPECT_GE(head.window, 1);
    EXPECT_GE(head.span(), n);
    for (std::int64_t q = 0; q < n; ++q) {
      for (std::int64_t k = 0; k <= q; ++k) ASSERT_TRUE(moa_rt::visible(head, q, k));
    }
  }
}

}  // namespace
