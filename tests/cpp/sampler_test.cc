// The sampler against the published definitions of its steps, by brute force in double.
#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "moa_rt/error.h"

namespace {
std::atomic<std::int64_t> heap_calls{0};
}  // namespace

// Counted, so that a test can show that sampling makes none. Not inlined: the compiler would take
// the pair malloc and delete for a mistake.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++heap_calls;
  if (void* data = std::malloc(bytes)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++heap_calls;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept { std::free(data); }

namespace {

using moa_rt::Sampler;
using moa_rt::SamplingOptions;
using moa_rt::TokenHistory;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SamplingOptions sampling(double temperature, std::int64_t top_k = 0, double top_p = 1.0) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  return options;
}

struct Seen {
  std::vector<std::int32_t> prompt;
  std::vector<std::int32_t> output;
};

TokenHistory history_of(const Seen& seen) {
  TokenHistory history;
  history.reserve(static_cast<std::int64_t>(seen.prompt.size() + seen.output.size()));
  for (const std::int32_t token : seen.prompt) history.add_prompt(token);
  for (const std::int32_t token : seen.output) history.add_output(token);
  return history;
}

std::vector<double> softmax(const std::vector<double>& scores) {
  const double top = *std::max_element(scores.begin(), scores.end());
  std::vector<double> out;
  double sum = 0.0;
  for (const double score : scores) sum += out.emplace_back(std::exp(score - top));
  for (double& value : out) value /= sum;
  return out;
}

// Tokens by rising score, as the processors of transformers sort them.
std::vector<std::size_t> rising(const std::vector<double>& scores) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  return order;
}

void top_k_filter(std::vector<double>& scores, std::int64_t top_k) {
  if (top_k == 0 || top_k >= static_cast<std::int64_t>(scores.size())) return;
  std::vector<double> sorted = scores;
  std::sort(sorted.rbegin(), sorted.rend());
  const double least = sorted[static_cast<std::size_t>(top_k - 1)];
  for (double& score : scores) {
    if (score < least) score = -INFINITY;
  }
}

void min_p_filter(std::vector<double>& scores, double min_p) {
  const std::vector<double> p = softmax(scores);
  const double top = *std::max_element(p.begin(), p.end());
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] < min_p * top) scores[i] = -INFINITY;
  }
}

void top_p_filter(std::vector<double>& scores, double top_p) {
  const std::vector<double> p = softmax(scores);
  double cumulative = 0.0;
  const std::vector<std::size_t> order = rising(scores);
  for (std::size_t i = 0; i + 1 < order.size(); ++i) {  // the likeliest stays
    cumulative += p[order[i]];
    if (cumulative <= 1.0 - top_p) scores[order[i]] = -INFINITY;
  }
}

// Probability of every token: RepetitionPenalty, OpenAI's penalties, Temperature, TopK, MinP, TopP.
std::vector<double> oracle(const std::vector<float>& logits, const SamplingOptions& options,
                           const Seen& seen, const std::vector<std::int64_t>& banned = {}) {
  std::vector<double> scores(logits.begin(), logits.end());
  for (const auto& [token, bias] : options.logit_bias)
    scores[static_cast<std::size_t>(token)] += bias;
  std::map<std::int32_t, int> counts;
  for (const std::int32_t token : seen.prompt) counts[token] += 0;
  for (const std::int32_t token : seen.output) counts[token] += 1;
  for (const auto& [token, count] : counts) {
    double& score = scores[static_cast<std::size_t>(token)];
    score = score < 0 ? score * options.repetition_penalty : score / options.repetition_penalty;
    score -= count * options.frequency_penalty + (count > 0 ? options.presence_penalty : 0.0);
  }
  for (const std::int64_t token : banned) scores[static_cast<std::size_t>(token)] = -INFINITY;
  for (double& score : scores) score /= options.temperature;
  top_k_filter(scores, options.top_k);
  if (options.min_p > 0.0) min_p_filter(scores, options.min_p);
  if (options.top_p < 1.0) top_p_filter(scores, options.top_p);
  return softmax(scores);
}

std::vector<float> random_logits(std::mt19937_64& random, std::size_t size, double scale) {
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = static_cast<float>(normal(random));
  return logits;
}

SamplingOptions random_options(std::mt19937_64& random, std::size_t vocab) {
  const auto chance = [&random] { return random() % 2 == 0; };
  const auto uniform = [&random](double low, double high) {
    return low + (high - low) * static_cast<double>(random() % 1'000'000) * 1e-6;
  };
  SamplingOptions options;
  options.temperature = uniform(0.3, 2.0);
  if (chance()) options.top_k = 1 + static_cast<std::int64_t>(random() % vocab);
  if (chance()) options.top_p = uniform(0.2, 1.0);
  if (chance()) options.min_p = uniform(0.0, 0.3);
  if (chance()) options.repetition_penalty = uniform(0.7, 2.0);
  if (chance()) options.presence_penalty = uniform(-2.0, 2.0);
  if (chance()) options.frequency_penalty = uniform(-2.0, 2.0);
  if (chance()) options.logit_bias = {{3, uniform(-5, 5)}, {0, uniform(-5, 5)}};
  return options;
}

Seen random_history(std::mt19937_64& random, std::size_t vocab) {
  Seen seen;
  for (std::size_t i = 0; i < random() % 12; ++i) {
    seen.prompt.push_back(static_cast<std::int32_t>(random() % vocab));
  }
  for (std::size_t i = 0; i < random() % 12; ++i) {
    seen.output.push_back(static_cast<std::int32_t>(random() % vocab));
  }
  return seen;
}

TEST(Sampler, draws_follow_the_oracle_distribution) {
  std::mt19937_64 random(1);
  constexpr int kDraws = 2000;
  int filtered = 0;
  for (int round = 0; round < 400; ++round) {
    const std::size_t vocab = 4 + random() % 60;
    const std::vector<float> logits = random_logits(random, vocab, 2.0);
    const SamplingOptions options = random_options(random, vocab);
    const Seen seen = random_history(random, vocab);
    const std::vector<std::int64_t> banned =
        random() % 3 == 0 ? std::vector<std::int64_t>{1, 2} : std::vector<std::int64_t>{};
    const std::vector<double> want = oracle(logits, options, seen, banned);

    const auto width = static_cast<std::int64_t>(vocab);
    ASSERT_NO_THROW(moa_rt::validate_sampling(options, width));
    Sampler sampler(width, width);
    const TokenHistory history = history_of(seen);
    std::vector<int> counts(vocab);
    for (int step = 0; step < kDraws; ++step) {
      const auto seed = static_cast<std::uint64_t>(round);
      ++counts[static_cast<std::size_t>(
          sampler.sample(logits, options, history, seed, step, banned))];
    }
    // Pearson's statistic over the cells that expect at least 5; the rest as one cell.
    double statistic = 0.0;
    double rest_want = 0.0;
    double rest_got = 0.0;
    int cells = 0;
    for (std::size_t i = 0; i < vocab; ++i) {
      const double expected = want[i] * kDraws;
      if (want[i] == 0.0) {
        ASSERT_EQ(counts[i], 0) << "round " << round << ": token " << i << " was filtered out";
        ++filtered;
      } else if (expected >= 5.0) {
        statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
        ++cells;
      } else {
        rest_want += expected;
        rest_got += counts[i];
      }
    }
    // Mean plus six standard deviations of the chi-square distribution.
    EXPECT_LT(statistic, cells + 6.0 * std::sqrt(2.0 * cells) + 6.0) << "round " << round;
    EXPECT_LT(std::abs(rest_got - rest_want), 6.0 * std::sqrt(rest_want + 1.0) + 3.0);
  }
  EXPECT_GT(filtered, 1000);
}

// A wide vocabulary: top-p takes several rounds of sorting, top-k keeps many.
TEST(Sampler, wide_rows_keep_the_oracle_support) {
  std::mt19937_64 random(2);
  const std::vector<float> logits = random_logits(random, 20'000, 0.5);
  Sampler sampler(20'000, 20'000);
  for (const double top_p : {0.01, 0.3, 0.9, 0.999}) {
    for (const std::int64_t top_k : {0, 1, 5000}) {
      const SamplingOptions options = sampling(1.0, top_k, top_p);
      const std::vector<double> want = oracle(logits, options, {});
      for (int step = 0; step < 50; ++step) {
        const std::int32_t token = sampler.sample(logits, options, {}, 5, step);
        ASSERT_GT(want[static_cast<std::size_t>(token)], 0.0);
      }
    }
  }
}

TEST(Sampler, L2_greedy_takes_the_lowest_of_equals) {
  std::vector<float> logits(100, -1.0f);
  logits[40] = logits[77] = 3.0f;
  Sampler sampler(100, 100);
  EXPECT_EQ(sampler.sample(logits, {}, {}, 0, 0), 40);
  EXPECT_EQ(sampler.sample(logits, sampling(1e-6), {}, 0, 0), 40);
  // One candidate is the same as greedy, and so is a nucleus that the first one fills.
  EXPECT_EQ(sampler.sample(logits, sampling(1.0, 1), {}, 9, 9), 40);
  EXPECT_EQ(sampler.sample(logits, sampling(1.0, 0, 0.01), {}, 9, 9), 40);
  const std::vector<std::int64_t> banned = {40};
  EXPECT_EQ(sampler.sample(logits, {}, {}, 0, 0, banned), 77);
  SamplingOptions biased;
  biased.logit_bias = {{5, 100.0}};
  EXPECT_EQ(sampler.sample(logits, biased, {}, 0, 0), 5);
}

TEST(Sampler, greedy_uses_the_penalties) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 300; ++round) {
    const std::size_t vocab = 1 + random() % 70;
    const std::vector<float> logits = random_logits(random, vocab, 2.0);
    SamplingOptions options = random_options(random, std::max<std::size_t>(vocab, 4));
    options.top_k = 0;
    if (vocab < 4) options.logit_bias.clear();
    const Seen seen = random_history(random, vocab);
    options.temperature = 1.0;
    options.top_p = 1.0;
    options.min_p = 0.0;
    const std::vector<double> want = oracle(logits, options, seen);
    options.temperature = 0.0;
    Sampler sampler(static_cast<std::int64_t>(vocab), static_cast<std::int64_t>(vocab));
    EXPECT_EQ(sampler.sample(logits, options, history_of(seen), 0, 0),
              std::max_element(want.begin(), want.end()) - want.begin());
  }
}

TEST(Sampler, L1_non_finite_logits_are_an_error) {
  SamplingOptions penalised;
  penalised.presence_penalty = 1.0;
  for (const SamplingOptions& options : {SamplingOptions{}, sampling(1.0), penalised}) {
    for (const float bad : {kNan, -kNan, kInf}) {
      for (const std::size_t place : {0u, 15u, 16u, 36u}) {
        std::vector<float> logits(37, 1.0f);
        logits[place] = bad;
        Sampler sampler(37, 37);
        EXPECT_THROW(sampler.sample(logits, options, {}, 0, 0), moa_rt::NumericError);
      }
    }
    Sampler sampler(37, 37);
    EXPECT_THROW(sampler.sample(std::vector<float>(37, -kInf), options, {}, 0, 0),
                 moa_rt::NumericError);
    // A few -inf only rule their tokens out.
    std::vector<float> logits(37, -kInf);
    logits[21] = -3.0f;
    EXPECT_EQ(sampler.sample(logits, options, {}, 0, 0), 21);
    const std::vector<std::int64_t> banned = {21};
    EXPECT_THROW(sampler.sample(logits, options, {}, 0, 0, banned), moa_rt::NumericError);
  }
}

TEST(Sampler, L1_extreme_logits_stay_finite) {
  Seen seen{.prompt = {0, 1}, .output = {2}};
  const std::vector<float> logits = {3e38f, -3e38f, 0.0f, 3.1e38f};
  for (const double penalty : {1e-300, 10.0}) {
    for (const double temperature : {1e-5, 1.0, 100.0}) {
      SamplingOptions options = sampling(temperature);
      options.repetition_penalty = penalty;
      moa_rt::validate_sampling(options, 4);
      Sampler sampler(4, 4);
      EXPECT_EQ(sampler.sample(logits, options, history_of(seen), 1, 1), penalty > 1.0 ? 3 : 0);
    }
  }
}

TEST(Sampler, C10_padding_rows_are_never_chosen) {
  std::vector<float> logits(64, 0.0f);
  for (std::size_t i = 50; i < 64; ++i) logits[i] = i % 2 == 0 ? 50.0f : kNan;
  Sampler sampler(64, 50);
  SamplingOptions options = sampling(1.0);
  options.logit_bias = {{60, 100.0}};
  for (int step = 0; step < 500; ++step) {
    ASSERT_LT(sampler.sample(logits, options, {}, 3, step), 50);
  }
  EXPECT_EQ(sampler.sample(logits, {}, {}, 0, 0), 0);
}

// SplitMix64 as published, one number after the other.
TEST(Sampler, draws_are_the_published_generator) {
  const auto mix = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  };
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{42}, ~std::uint64_t{0}}) {
    std::uint64_t state = mix(seed + 0x9e3779b97f4a7c15ULL);
    double sum = 0.0;
    for (std::uint64_t step = 0; step < 10'000; ++step) {
      state += 0x9e3779b97f4a7c15ULL;
      const double value = moa_rt::uniform_draw(seed, step);
      ASSERT_EQ(value, std::ldexp(static_cast<double>(mix(state) >> 11), -53));
      ASSERT_GE(value, 0.0);
      ASSERT_LT(value, 1.0);
      sum += value;
    }
    EXPECT_NEAR(sum / 10'000, 0.5, 0.02);
  }
  EXPECT_NE(moa_rt::uniform_draw(0, 1), moa_rt::uniform_draw(1, 0));
}

TEST(Sampler, a_draw_depends_on_seed_and_step_only) {
  std::mt19937_64 random(8);
  const std::vector<float> logits = random_logits(random, 500, 1.0);
  const SamplingOptions options = sampling(1.0, 0, 0.9);
  Sampler fresh(500, 500);
  Sampler used(500, 500);
  for (int step = 0; step < 100; ++step) {
    used.sample(random_logits(random, 500, 3.0), sampling(2.0, 7), {}, 77, step);
    ASSERT_EQ(fresh.sample(logits, options, {}, 12, step),
              used.sample(logits, options, {}, 12, step));
  }
}

TEST(Sampler, allocates_nothing_per_token) {
  std::mt19937_64 random(9);
  const std::vector<float> logits = random_logits(random, 5000, 2.0);
  SamplingOptions options = sampling(1.0, 400, 0.95);
  options.min_p = 0.001;
  options.repetition_penalty = 1.2;
  options.frequency_penalty = 0.5;
  options.logit_bias = {{17, 1.0}};
  const std::vector<std::int64_t> banned = {2};
  Sampler sampler(5000, 5000);
  TokenHistory history;
  history.reserve(1000);
  const std::int64_t before = heap_calls;
  for (std::int32_t token = 0; token < 500; ++token) history.add_prompt(token * 7 % 3000);
  for (int step = 0; step < 500; ++step) {
    history.add_output(sampler.sample(logits, options, history, 1, step, banned));
  }
  EXPECT_EQ(heap_calls - before, 0);
}

}  // namespace
