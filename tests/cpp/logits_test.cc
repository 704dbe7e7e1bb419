// Log-probabilities of a row and the tokens a request has seen, against plain sums and a map.
#include "runtime/logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "moa_rt/error.h"
#include "runtime/token_history.h"

namespace {

using moa_rt::TokenHistory;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<double> softmax(const std::vector<double>& scores) {
  const double top = *std::max_element(scores.begin(), scores.end());
  std::vector<double> out;
  double sum = 0.0;
  for (const double score : scores) sum += out.emplace_back(std::exp(score - top));
  for (double& value : out) value /= sum;
  return out;
}

std::vector<float> random_logits(std::mt19937_64& random, std::size_t size, double scale) {
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = static_cast<float>(normal(random));
  return logits;
}

TEST(Logits, log_probabilities) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> logits = random_logits(random, 1 + random() % 200, 5.0);
    if (round % 2 == 0) logits[0] = logits.back();  // equals
    const std::vector<double> p = softmax({logits.begin(), logits.end()});
    std::vector<std::int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
    });
    const auto token = static_cast<std::int32_t>(random() % logits.size());
    const moa_rt::TokenLogprob got = moa_rt::token_logprob(logits, token, 5);
    EXPECT_EQ(got.token, token);
    EXPECT_NEAR(got.logprob, std::log(p[static_cast<std::size_t>(token)]), 1e-5);
    ASSERT_EQ(got.top.size(), std::min<std::size_t>(5, logits.size()));
    for (std::size_t i = 0; i < got.top.size(); ++i) {
      EXPECT_EQ(got.top[i].first, order[i]);
      EXPECT_NEAR(got.top[i].second, std::log(p[static_cast<std::size_t>(order[i])]), 1e-5);
    }
    EXPECT_TRUE(moa_rt::token_logprob(logits, token, 0).top.empty());
  }
  const auto ask = [](const std::vector<float>& logits, std::int32_t token) {
    return moa_rt::token_logprob(logits, token, 0).logprob;
  };
  EXPECT_THROW(ask({1.0f, kNan}, 0), moa_rt::NumericError);
  EXPECT_THROW(ask({1.0f}, 1), moa_rt::ArgumentError);
  EXPECT_EQ(ask({1.0f, -kInf}, 1), -kInf);
}

TEST(TokenHistory, counts_like_a_map) {
  std::mt19937_64 random(10);
  for (const std::int64_t reserved : {0, 10, 5000}) {
    TokenHistory history;
    history.reserve(reserved);
    std::map<std::int32_t, int> want;
    for (int i = 0; i < 5000; ++i) {
      const auto token = static_cast<std::int32_t>(random() % (1 << (random() % 20)));
      const bool output = random() % 2 == 0;
      want[token] += output ? 1 : 0;
      output ? history.add_output(token) : history.add_prompt(token);
    }
    std::map<std::int32_t, int> got;
    for (const TokenHistory::Entry& entry : history.entries()) {
      EXPECT_TRUE(got.emplace(entry.token, entry.output_count).second);
    }
    EXPECT_EQ(got, want);
  }
}

}  // namespace
