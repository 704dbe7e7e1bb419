#include "moa_rt/plan.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"
#include "plan/decimal.h"

namespace moa_rt {
namespace {

// As a configuration may have (C5).
constexpr std::int64_t kMaxLayers = 512;
constexpr std::int64_t kMaxKvHeads = 512;
constexpr std::int64_t kMaxHeadDim = 65536;
constexpr std::int64_t kMaxRounding = 1024;
constexpr std::int64_t kOneQ32 = std::int64_t{1} << 32;
constexpr SpanRule kDenseRule{};

using Rules = std::vector<std::vector<SpanRule>>;

std::string shape_text(std::int64_t layers, std::int64_t heads) {
  return std::to_string(layers) + "x" + std::to_string(heads);
}

std::string range_text(std::int64_t low, std::int64_t high) {
  return std::to_string(low) + ".." + std::to_string(high);
}

std::string head_item(std::size_t layer, std::size_t head) {
  return "layer " + std::to_string(layer) + ", KV head " + std::to_string(head);
}

void check_range(const char* field, std::int64_t got, std::int64_t low, std::int64_t high,
                 const std::string& item = "") {
  if (got >= low && got <= high) return;
  throw ArgumentError(describe(
      {.item = item, .field = field, .got = std::to_string(got), .want = range_text(low, high)}));
}

void check_rounding(std::int64_t rounding) {
  check_range("rounding", rounding, 1, kMaxRounding);
  if ((rounding & (rounding - 1)) == 0) return;
  throw ArgumentError(
      describe({.field = "rounding", .got = std::to_string(rounding), .want = "a power of two"}));
}

void check_rule(const SpanRule& rule, std::int64_t sink, std::int64_t rounding,
                const std::string& item) {
  check_range("alpha", rule.alpha, -kMaxTokens, kMaxTokens, item);
  check_range("beta * 2^32", rule.beta_q32, 0, kOneQ32, item);
  if (rule.max_span == 0) return;
  check_range("max_span", rule.max_span, sink + rounding, kMaxTokens, item);
  if (rule.max_span % rounding == 0) return;
  throw ArgumentError(describe({.item = item,
                                .field = "max_span",
                                .got = std::to_string(rule.max_span),
                                .want = "a multiple of " + std::to_string(rounding)}));
}

void check_rules(const Rules& rules, std::int64_t sink, std::int64_t rounding) {
  check_range("layers", static_cast<std::int64_t>(rules.size()), 1, kMaxLayers);
  const std::size_t heads = rules[0].size();
  check_range("KV heads", static_cast<std::int64_t>(heads), 1, kMaxKvHeads);
  for (std::size_t layer = 0; layer < rules.size(); ++layer) {
    if (rules[layer].size() != heads) {
      throw ArgumentError(describe({.item = "layer " + std::to_string(layer),
                                    .field = "KV heads",
                                    .got = std::to_string(rules[layer].size()),
                                    .want = std::to_string(heads) + " as in layer 0"}));
    }
    for (std::size_t head = 0; head < heads; ++head) {
      check_rule(rules[layer][head], sink, rounding, head_item(layer, head));
    }
  }
}

Rules same_rule(const ModelConfig& config, const SpanRule& rule) {
  check_range("num_hidden_layers", config.num_hidden_layers, 1, kMaxLayers);
  check_range("num_key_value_heads", config.num_key_value_heads, 1, kMaxKvHeads);
  return Rules(static_cast<std::size_t>(config.num_hidden_layers),
               std::vector<SpanRule>(static_cast<std::size_t>(config.num_key_value_heads), rule));
}

// Whether the rule, max_span included, exceeds n somewhere in [min_length, ...]. rule(n) - n never
// grows with n, because beta <= 1, so the low end tells.
bool exceeds_budget(const SpanRule& rule, std::int64_t min_length) {
  const bool bounded = rule.max_span > 0 && rule.max_span <= min_length;
  return !bounded && raw_span(rule, min_length) > min_length;
}

}  // namespace

AttentionPlan AttentionPlan::dense(const ModelConfig& config) {
  AttentionPlan plan = from_rules(same_rule(config, kDenseRule));
  plan.provenance["method"] = "dense";
  return plan;
}

AttentionPlan AttentionPlan::uniform(const ModelConfig& config, double density) {
  const bool in_range = density > 0.0 && density <= 1.0;
  const std::int64_t beta = in_range ? beta_to_q32(density) : 0;
  if (beta == 0) {
    throw ArgumentError(describe({.field = "density",
                                  .got = decimal(density),
                                  .want = "above 0, at least 2^-32, and at most 1"}));
  }
  AttentionPlan plan = from_rules(same_rule(config, {.alpha = 0, .beta_q32 = beta}));
  plan.provenance["method"] = "uniform";
  return plan;
}

AttentionPlan AttentionPlan::from_rules(std::vector<std::vector<SpanRule>> rules,
                                        std::int64_t sink_size, std::int64_t rounding,
                                        std::int64_t min_length, std::int64_t max_length) {
  check_rounding(rounding);
  check_range("sink_size", sink_size, 0, kMaxTokens - rounding);
  check_range("min_length", min_length, 1, kMaxTokens);
  check_range("max_length", max_length, min_length, kMaxTokens);
  check_rules(rules, sink_size, rounding);
  AttentionPlan plan;
  plan.rules_ = std::move(rules);
  plan.sink_size_ = sink_size;
  plan.rounding_ = rounding;
  plan.min_length_ = min_length;
  plan.max_length_ = max_length;
  return plan;
}

void AttentionPlan::check_model(const ModelConfig& config, bool force) const {
  if (num_layers() != config.num_hidden_layers || num_kv_heads() != config.num_key_value_heads) {
    const std::string got = "plan " + shape_text(num_layers(), num_kv_heads()) + " vs model " +
                            shape_text(config.num_hidden_layers, config.num_key_value_heads);
    throw MismatchError(describe({.item = "plan", .field = "layers x KV heads", .note = got}));
  }
  if (force || fingerprint.empty() || fingerprint == config.fingerprint) return;
  const std::string want = config.fingerprint.empty()
                               ? "the model's, which has no manifest to tell it"
                               : "the model's " + config.fingerprint;
  throw MismatchError(describe({.item = "plan",
                                .field = "fingerprint",
                                .got = escape_name(fingerprint),
                                .want = want,
                                .note = "the plan was made for another model"}));
}

PlanDiagnostics AttentionPlan::validate() const {
  PlanDiagnostics diagnostics;
  for (std::size_t layer = 0; layer < rules_.size(); ++layer) {
    for (std::size_t head = 0; head < rules_[layer].size(); ++head) {
      const SpanRule& rule = rules_[layer][head];
      // The rule is linear in n: positive at both ends means positive in between. Rounding up, and
      // the bound max_span >= sink + rounding, keep it so.
      for (const std::int64_t n : {min_length_, max_length_}) {
        const std::int64_t span = raw_span(rule, n);
        if (span > 0) continue;
        throw FormatError(describe({.item = head_item(layer, head),
                                    .field = "span at N = " + std::to_string(n),
                                    .got = std::to_string(span),
                                    .want = "at least 1 token"}));
      }
      if (exceeds_budget(rule, min_length_)) ++diagnostics.clamped_heads;
    }
  }
  return diagnostics;
}

HeadSpan AttentionPlan::head_span(std::int64_t layer, std::int64_t kv_head, std::int64_t n) const {
  check_range("layer", layer, 0, num_layers() - 1);
  check_range("kv_head", kv_head, 0, num_kv_heads() - 1);
  check_range("token budget N", n, 1, kMaxTokens);
  const bool inside = n >= min_length_ && n <= max_length_;
  if (!inside && out_of_range == OutOfRange::kRefuse) {
    throw ArgumentError(describe({.item = "plan",
                                  .field = "token budget N",
                                  .got = std::to_string(n),
                                  .want = range_text(min_length_, max_length_),
                                  .note = "the plan refuses other lengths"}));
  }
  const SpanRule& rule = rules_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)];
  return resolve_span(inside ? rule : kDenseRule, sink_size_, rounding_, n);
}

std::vector<std::vector<HeadSpan>> AttentionPlan::spans(std::int64_t n) const {
  std::vector<std::vector<HeadSpan>> result(rules_.size());
  for (std::size_t layer = 0; layer < rules_.size(); ++layer) {
    result[layer].reserve(rules_[layer].size());
    for (std::int64_t head = 0; head < num_kv_heads(); ++head) {
      result[layer].push_back(head_span(static_cast<std::int64_t>(layer), head, n));
    }
  }
  return result;
}

std::int64_t AttentionPlan::cache_bytes(std::int64_t n, std::int64_t head_dim, DType dtype) const {
  check_range("head_dim", head_dim, 1, kMaxHeadDim);  // the product stays below 2^59
  std::int64_t tokens = 0;
  for (const auto& layer : spans(n)) {
    for (const HeadSpan& head : layer) tokens += head.span();
  }
  return tokens * 2 * head_dim * size_of(dtype);
}

std::int64_t AttentionPlan::widest_length(std::int64_t most) const {
  const std::int64_t below = std::min(most, min_length_ - 1);
  if (below < 1 || out_of_range == OutOfRange::kRefuse) return most;
  const bool narrower = cache_bytes(most, 1, DType::kF32) < cache_bytes(below, 1, DType::kF32);
  return narrower ? below : most;
}

double AttentionPlan::density(std::int64_t n) const {
  const std::int64_t kept = cache_bytes(n, 1, DType::kF32);  // checks n
  const std::int64_t dense_span = resolve_span(kDenseRule, sink_size_, rounding_, n).span();
  const std::int64_t all = num_layers() * num_kv_heads() * dense_span * 2 * size_of(DType::kF32);
  return static_cast<double>(kept) / static_cast<double>(all);
}

std::int64_t beta_to_q32(double beta) {
  if (!(beta >= 0.0 && beta <= 1.0) || std::signbit(beta)) {
    throw ArgumentError(
        describe({.field = "beta", .got = decimal(beta), .want = "0..1, not -0.0"}));
  }
  return std::llround(std::ldexp(beta, 32));  // scaling by a power of two is exact
}

std::string beta_to_string(std::int64_t beta_q32) {
  check_range("beta * 2^32", beta_q32, 0, kOneQ32);
  if (beta_q32 == kOneQ32) return "1";
  std::int64_t floor = 0;        // of beta * scale
  std::int64_t rest = beta_q32;  // of the division, over 2^32
  std::int64_t scale = 1;
  // Ten digits always suffice: half of 10^-10 is less than half of 2^-32.
  for (std::size_t digits = 0;; ++digits) {
    const std::int64_t nearest = floor + (rest >= kOneQ32 / 2 ? 1 : 0);
    if (beta_to_q32(static_cast<double>(nearest) / static_cast<double>(scale)) == beta_q32) {
      std::string text = std::to_string(nearest);
      return digits == 0 ? text : "0." + std::string(digits - text.size(), '0') + text;
    }
    rest *= 10;
    floor = floor * 10 + (rest >> 32);
    rest &= kOneQ32 - 1;
    scale *= 10;
  }
}

}  // namespace moa_rt
