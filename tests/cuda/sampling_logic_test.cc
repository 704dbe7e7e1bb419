// The logic of the sampling kernel against the host's sampler, without a GPU: its blocks run as
// fibers. What only a GPU can show (races, its arithmetic) is in cuda_sampling_test.cc.
#include <gtest/gtest.h>

#include <numbers>
#include <random>
#include <vector>

#include "emulated/block.h"
#include "runtime/logits.h"
#include "runtime/sampler.h"
#include "support/random_logits.h"

#define launch_sample launch_emulated_sample  // the library has the other one
#include "cuda/sampling/sample.cu"

namespace moa_rt::testing {
namespace {

struct Row {
  std::vector<float> logits;
  SamplingOptions options;
  std::uint64_t seed = 0;
  std::int64_t logprobs = -1;
};

struct Chosen {
  cuda::RowResult result;
  std::vector<TopToken> top;
};

Chosen sample_emulated(const Row& row) {
  const SamplingPlan plan = plan_sampling(row.options);
  cuda::RowState state;
  state.inverse = plan.greedy ? 1.0 : std::numbers::log2e / plan.temperature;
  state.least = plan.least;
  state.top_p = plan.top_p;
  state.top_k = plan.top_k;
  state.greedy = plan.greedy ? 1 : 0;
  state.seed = row.seed;
  state.logprobs = static_cast<std::int32_t>(row.logprobs);
  state.active = 1;
  std::vector<std::byte> lists(static_cast<std::size_t>(cuda::RowLists(0).bytes));
  std::vector<float> logits = row.logits;
  Chosen chosen{{}, std::vector<TopToken>(cuda::kMaxTop)};
  std::int32_t token = -1;
  const auto vocab = static_cast<std::int32_t>(logits.size());
  cuda::launch_sample({.logits = logits.data(),
                       .rows = 1,
                       .vocab = vocab,
                       .valid_vocab = vocab,
                       .states = &state,
                       .lists = lists.data(),
                       .tokens = &token,
                       .results = &chosen.result,
                       .top = chosen.top.data()},
                      nullptr);
  EXPECT_EQ(token, chosen.result.token);
  EXPECT_EQ(state.index, 1);
  EXPECT_EQ(logits, row.logits);
  return chosen;
}

void expect_same(const Row& row) {
  const auto vocab = static_cast<std::int64_t>(row.logits.size());
  const std::int32_t want =
      Sampler(vocab, vocab).sample(row.logits, row.options, TokenHistory(), row.seed, 0);
  const Chosen got = sample_emulated(row);
  ASSERT_EQ(got.result.fault, LogitFault::kNone);
  ASSERT_EQ(got.result.token, want)
      << "vocab " << vocab << " temperature " << row.options.temperature << " top_k "
      << row.options.top_k << " top_p " << row.options.top_p << " min_p " << row.options.min_p;
  if (row.logprobs < 0) return;
  const TokenLogprob logprob = token_logprob(row.logits, want, row.logprobs);
  EXPECT_NEAR(got.result.logprob, logprob.logprob, 2e-6 * (1.0 + std::fabs(logprob.logprob)));
  for (std::size_t i = 0; i < logprob.top.size(); ++i) {
    ASSERT_EQ(got.top[i].token, logprob.top[i].first) << i;
  }
}

// One of them can be chosen in any case.
std::vector<float> possible_logits(std::mt19937_64& random, std::int64_t vocab, double scale) {
  std::vector<float> logits = random_logits(random, static_cast<std::size_t>(vocab), scale);
  logits[random() % logits.size()] = 0.5f;
  return logits;
}

Row random_row(std::mt19937_64& random, std::int64_t vocab, double scale) {
  const auto uniform = [&random](double low, double high) {
    return low + (high - low) * static_cast<double>(random() % 1'000'000) * 1e-6;
  };
  Row row{.logits = possible_logits(random, vocab, scale), .options = {}, .seed = random()};
  row.options.temperature = random() % 8 == 0 ? uniform(2.0, 100.0) : uniform(0.2, 2.0);
  if (random() % 3 == 0) {
    const auto most = static_cast<std::uint64_t>(vocab);
    row.options.top_k =
        1 + static_cast<std::int64_t>(random() %
                                      (random() % 2 ? std::min<std::uint64_t>(60, most) : most));
  }
  if (random() % 4 != 0) row.options.top_p = uniform(0.05, 1.0);
  if (random() % 4 == 0) row.options.min_p = uniform(0.0, 0.3);
  if (random() % 2 == 0) row.logprobs = std::min<std::int64_t>(vocab, random() % 65);
  return row;
}

TEST(SamplingLogicTest, chooses_what_the_host_chooses) {
  std::mt19937_64 random(1);
  for (const std::int64_t vocab : {1, 33, 1000, 20000}) {
    for (const double scale : {0.01, 3.0}) expect_same(random_row(random, vocab, scale));
  }
}

// Top-p keeps more than fits the list: the cut is found in what lies around it, and the draw walks
// over the whole row.
TEST(SamplingLogicTest, flat_rows_of_a_large_vocabulary) {
  std::mt19937_64 random(2);
  for (const double scale : {0.0, 0.02, 0.5}) {
    Row row{.logits = possible_logits(random, 128256, scale), .options = {}, .seed = random()};
    row.options.temperature = 0.8;
    row.options.top_p = 0.95;
    expect_same(row);
  }
}

}  // namespace
}  // namespace moa_rt::testing
