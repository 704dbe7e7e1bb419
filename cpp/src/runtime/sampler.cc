#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/message.h"
#include "moa_rt/error.h"
#include "plan/decimal.h"

namespace moa_rt {
namespace {

// A smaller temperature would overflow the scaled logits and means greedy anyway (G6).
constexpr double kGreedyBelow = 1e-5;
// Candidates less likely than e^-60 of the likeliest are left out: a vocabulary of 2^20 of them
// weighs less than the rounding of the sum.
constexpr double kNegligible = -60.0;
constexpr std::size_t kMaxLogitBias = 1024;
constexpr double kMaxBias = 100.0;

void check(const char* field, double got, bool good, const char* want) {
  if (good) return;
  throw ArgumentError(
      describe({.item = "sampling", .field = field, .got = decimal(got), .want = want}));
}

void check_integer(const std::string& field, std::int64_t got, std::int64_t low,
                   std::int64_t high) {
  if (got >= low && got <= high) return;
  throw ArgumentError(describe({.item = "sampling",
                                .field = field,
                                .got = std::to_string(got),
                                .want = std::to_string(low) + ".." + std::to_string(high)}));
}

void check_logit_bias(const SamplingOptions& options, std::int64_t vocab) {
  const auto& bias = options.logit_bias;
  if (bias.size() > kMaxLogitBias) {
    throw ArgumentError(describe({.item = "sampling",
                                  .field = "logit_bias",
                                  .got = std::to_string(bias.size()) + " entries",
                                  .want = "at most " + std::to_string(kMaxLogitBias)}));
  }
  std::vector<std::int64_t> tokens;
  for (const auto& [token, value] : bias) {
    check_integer("logit_bias: token", token, 0, vocab - 1);
    check("logit_bias", value, value >= -kMaxBias && value <= kMaxBias, "-100..100");
    tokens.push_back(token);
  }
  std::sort(tokens.begin(), tokens.end());
  const auto twin = std::adjacent_find(tokens.begin(), tokens.end());
  if (twin == tokens.end()) return;
  throw ArgumentError(describe({.item = "sampling",
                                .field = "logit_bias",
                                .got = "token " + std::to_string(*twin) + " twice",
                                .want = "each token once"}));
}

}  // namespace

// Every bound is two-sided and written so that NaN fails it.
void validate_sampling(const SamplingOptions& options, std::int64_t vocab) {
  const SamplingOptions& o = options;
  check("temperature", o.temperature, o.temperature >= 0.0 && o.temperature <= 100.0, "0..100");
  check_integer("top_k", o.top_k, 0, vocab);
  check("top_p", o.top_p, o.top_p > 0.0 && o.top_p <= 1.0, "above 0 and at most 1");
  check("min_p", o.min_p, o.min_p >= 0.0 && o.min_p <= 1.0, "0..1");
  check("repetition_penalty", o.repetition_penalty,
        o.repetition_penalty > 0.0 && o.repetition_penalty <= 10.0, "above 0 and at most 10");
  check("presence_penalty", o.presence_penalty,
        o.presence_penalty >= -2.0 && o.presence_penalty <= 2.0, "-2..2");
  check("frequency_penalty", o.frequency_penalty,
        o.frequency_penalty >= -2.0 && o.frequency_penalty <= 2.0, "-2..2");
  check_logit_bias(options, vocab);
}

bool uses_history(const SamplingOptions& options) {
  return options.repetition_penalty != 1.0 || options.presence_penalty != 0.0 ||
         options.frequency_penalty != 0.0;
}

SamplingPlan plan_sampling(const SamplingOptions& options) {
  return {.greedy = options.temperature < kGreedyBelow,
          .temperature = options.temperature,
          .least = options.temperature * std::max(std::log(options.min_p), kNegligible),
          .top_k = options.top_k,
          .top_p = options.top_p,
          .uses_history = uses_history(options),
          .repetition_penalty = options.repetition_penalty,
          .frequency_penalty = options.frequency_penalty,
          .presence_penalty = options.presence_penalty};
}

Sampler::Sampler(std::int64_t vocab, std::int64_t valid_vocab)
    : vocab_(vocab), valid_vocab_(valid_vocab) {
  if (valid_vocab < 1 || valid_vocab > vocab) {
    throw InternalError("sampler: " + std::to_string(valid_vocab) + " of " + std::to_string(vocab) +
                        " logits");
  }
  scores_.resize(static_cast<std::size_t>(valid_vocab));
  candidates_.reserve(static_cast<std::size_t>(valid_vocab));
  ranked_.reserve(static_cast<std::size_t>(valid_vocab));
}

std::int64_t Sampler::predict_bytes(std::int64_t vocab) {
  return vocab * static_cast<std::int64_t>(sizeof(float) + 2 * sizeof(Candidate));
}

std::int32_t Sampler::sample(std::span<const float> logits, const SamplingOptions& options,
                             const TokenHistory& history, std::uint64_t seed, std::int64_t step,
                             std::span<const std::int64_t> banned) {
  if (static_cast<std::int64_t>(logits.size()) != vocab_) {
    throw InternalError("sampler: row of " + std::to_string(logits.size()) + " logits, want " +
                        std::to_string(vocab_));
  }
  std::span<const float> scores = logits.first(static_cast<std::size_t>(valid_vocab_));
  float top = finite_max(scores);
  if (uses_history(options) || !options.logit_bias.empty() || !banned.empty()) {
    adjust(scores, options, history, banned);
    scores = scores_;
    top = finite_max(scores);
  }
  const SamplingPlan plan = plan_sampling(options);
  if (plan.greedy) return first_equal(scores, top);

  collect(scores, top, plan);
  if (plan.top_k > 0) keep_top_k(plan.top_k);
  double mass = weigh(top, plan.temperature);
  if (options.top_p < 1.0) mass = keep_top_p(mass, options.top_p);
  return draw(mass, uniform_draw(seed, static_cast<std::uint64_t>(step)));
}

void Sampler::adjust(std::span<const float> row, const SamplingOptions& options,
                     const TokenHistory& history, std::span<const std::int64_t> banned) {
  std::copy(row.begin(), row.end(), scores_.begin());
  const auto score_of = [this](std::int64_t token) -> float* {
    return token < valid_vocab_ ? &scores_[static_cast<std::size_t>(token)] : nullptr;
  };
  for (const auto& [token, bias] : options.logit_bias) {
    if (float* score = score_of(token)) *score = biased(*score, bias);
  }
  if (uses_history(options)) {
    for (const TokenHistory::Entry& entry : history.entries()) {
      float* score = score_of(entry.token);
      if (score == nullptr) continue;
      *score = penalised(*score, options.repetition_penalty, options.frequency_penalty,
                         options.presence_penalty, entry.output_count);
    }
  }
  for (const std::int64_t token : banned) {
    if (float* score = score_of(token)) *score = kRuledOut;
  }
}

bool Sampler::better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.token < b.token;
}

// Top-k and min-p both keep the first so many in order of score, so their order does not matter:
// min-p, a plain comparison, goes first.
void Sampler::collect(std::span<const float> scores, float top, const SamplingPlan& plan) {
  candidates_.clear();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double below_top = static_cast<double>(scores[i]) - static_cast<double>(top);
    if (!(below_top >= plan.least)) continue;
    candidates_.push_back({.score = scores[i], .token = static_cast<std::int32_t>(i)});
  }
}

void Sampler::keep_top_k(std::int64_t top_k) {
  if (top_k >= static_cast<std::int64_t>(candidates_.size())) return;
  ranked_ = candidates_;
  const auto last = ranked_.begin() + (top_k - 1);
  std::nth_element(ranked_.begin(), last, ranked_.end(), better);
  std::erase_if(candidates_, [cut = *last](const Candidate& c) { return better(cut, c); });
}

double Sampler::weigh(float top, double temperature) {
  double total = 0.0;
  for (Candidate& candidate : candidates_) {
    const double below_top = static_cast<double>(candidate.score) - static_cast<double>(top);
    candidate.weight = std::exp(below_top / temperature);
    total += candidate.weight;
  }
  return total;
}

// Finds the cut by halving around medians, in linear time, instead of sorting the vocabulary.
// Returns the mass kept.
double Sampler::keep_top_p(double total, double top_p) {
  // Candidates lighter than this weigh less than 1 - top_p of the total all together, so the others
  // reach the target without them: mostly a few of many are left.
  const double negligible = (1.0 - top_p) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < negligible; });

  constexpr std::ptrdiff_t kSortable = 32;
  const double target = top_p * total;
  double mass = 0.0;  // of what is before `first`, all of it better than the rest
  ranked_ = candidates_;
  auto first = ranked_.begin();
  auto last = ranked_.end();
  while (last - first > kSortable) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, better);
    double half = 0.0;
    for (auto c = first; c != middle; ++c) half += c->weight;
    if (mass + half >= target) {
      last = middle;
    } else {
      mass += half;
      first = middle;
    }
  }
  std::sort(first, last, better);
  while (first != last && mass < target) mass += (first++)->weight;
  if (first != ranked_.end()) {
    const Candidate cut = *std::prev(first);  // at least one is kept: the target is above 0
    std::erase_if(candidates_, [&](const Candidate& c) { return better(cut, c); });
  }
  return mass;
}

std::int32_t Sampler::draw(double mass, double uniform) const {
  double left = uniform * mass;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0.0) return candidate.token;
  }
  return candidates_.back().token;  // rounding only
}

}  // namespace moa_rt
