// Spans of attention heads: the one place where alpha + beta * N is evaluated, and the one
// definition of the mask and of the cache slots. constexpr, for host and device.
//
// A KV head keeps the first `sink` tokens of a sequence for ever and the last `window` tokens, the
// query included. Mixture of Attention Spans, arXiv 2406.14909, equation 2.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define MOA_RT_HOST_DEVICE __host__ __device__
#else
#define MOA_RT_HOST_DEVICE
#endif

namespace moa_rt {

// Longest sequence any rule is evaluated for; keeps all arithmetic below 2^63.
inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 21;

// span(N) = alpha + beta * N tokens, bounded by max_span if that is not 0. beta is a fixed-point
// number with 32 fractional bits in [0, 1], so that every language gets the same integer.
struct SpanRule {
  std::int64_t alpha = 0;                         // tokens, |alpha| <= kMaxTokens
  std::int64_t beta_q32 = std::int64_t{1} << 32;  // beta * 2^32
  std::int64_t max_span = 0;                      // tokens, 0 = unbounded

  bool operator==(const SpanRule&) const = default;
};

// What one KV head keeps of one sequence, in tokens.
struct HeadSpan {
  std::int64_t sink = 0;
  std::int64_t window = 0;

  MOA_RT_HOST_DEVICE constexpr std::int64_t span() const { return sink + window; }
  bool operator==(const HeadSpan&) const = default;
};

// ceil(value / multiple) * multiple for multiple > 0 and any sign of value.
MOA_RT_HOST_DEVICE constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  const std::int64_t quotient = value / multiple;
  return (value > quotient * multiple ? quotient + 1 : quotient) * multiple;
}

// ceil(alpha + beta * n), exact: the rule before any bound. May be negative. Rounding up to whole
// tokens first changes nothing, because the span is rounded up to a multiple anyway.
MOA_RT_HOST_DEVICE constexpr std::int64_t raw_span(const SpanRule& rule, std::int64_t n) {
  const std::int64_t product = rule.beta_q32 * n;  // <= 2^32 * 2^21
  const std::int64_t whole = product >> 32;
  return rule.alpha + whole + ((product & 0xffffffff) != 0 ? 1 : 0);
}

// The span of a rule for a sequence with a budget of n tokens (prompt + new tokens, 1..kMaxTokens):
// round_up(clamp(alpha + beta * n, sink + rounding, n), rounding), where max_span, if any, bounds
// the rule first. A head with span >= n is dense.
MOA_RT_HOST_DEVICE constexpr HeadSpan resolve_span(const SpanRule& rule, std::int64_t sink,
                                                   std::int64_t rounding, std::int64_t n) {
  std::int64_t span = raw_span(rule, n);
  if (rule.max_span > 0 && span > rule.max_span) span = rule.max_span;
  if (span < sink + rounding) span = sink + rounding;
  if (span > n) span = n;
  span = round_up(span, rounding);
  // A sequence shorter than the sink still gets a window of one, so that slot() stays defined.
  if (span <= sink) return {span - 1, 1};
  return {sink, span - sink};
}

// Cache slot of position p: the sink is stored in place, the rest is a ring.
MOA_RT_HOST_DEVICE constexpr std::int64_t slot_of(const HeadSpan& head, std::int64_t position) {
  return position < head.sink ? position : head.sink + (position - head.sink) % head.window;
}

// The mask: whether the query at position q sees the key at position k.
MOA_RT_HOST_DEVICE constexpr bool visible(const HeadSpan& head, std::int64_t q, std::int64_t k) {
  return k <= q && (k < head.sink || q - k < head.window);
}

// First position the window of query q reaches back to (never below 0); the sink is extra.
MOA_RT_HOST_DEVICE constexpr std::int64_t window_start(const HeadSpan& head, std::int64_t q) {
  return q + 1 > head.window ? q + 1 - head.window : 0;
}

// Slots in use once positions [0, length) have been appended.
MOA_RT_HOST_DEVICE constexpr std::int64_t filled_slots(const HeadSpan& head, std::int64_t length) {
  return length < head.span() ? length : head.span();
}

}  // namespace moa_rt
