// Sampling on the device against the host's sampler: the same token, log-probabilities and errors
// for random logits and every option.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "moa_rt/error.h"
#include "runtime/logits.h"
#include "runtime/sampler.h"
#include "support/device_data.h"
#include "support/random_logits.h"

namespace moa_rt::testing {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  SamplingOptions options;
  std::uint64_t seed = 0;
  std::vector<std::int64_t> stop_ids;
  std::int64_t min_new_tokens = 0;
  std::int64_t logprobs = -1;
  TokenHistory history;
};

// A decode loop whose model is a table of logits that the test writes.
class SamplingWorld {
 public:
  SamplingWorld(std::int64_t rows, std::int64_t vocab, std::int64_t valid)
      : vocab_(vocab), sampler_(vocab, valid) {
    const BackendLimits limits{.attention = {1, 1, 64},
                               .max_rows = rows,
                               .max_sequences = rows,
                               .max_seq_len = 256,
                               .max_matrix_cols = 64,
                               .dtype = DType::kBF16,
                               .num_layers = 1,
                               .vocab = vocab};
    backend_->reserve(limits);
    logits_ = Tensor::allocate(backend_->allocator(), DType::kF32, {rows, vocab});
    loop_ = backend_->decode_loop(
        {.logits =
             [this](std::span<const std::int32_t> tokens, std::span<const SequenceSlice>) {
               return logits_.rows(0, static_cast<std::int64_t>(tokens.size()));
             },
         .valid_vocab = valid});
    cache_ = std::make_unique<KVCache>(backend_->allocator(),
                                       CacheLayout({{HeadSpan{1, 255}}}, 64, DType::kBF16));
  }

  void join(const std::vector<Case>& cases) {
    for (std::size_t row = 0; row < cases.size(); ++row) {
      const Case& c = cases[row];
      loop_->join(static_cast<std::int64_t>(row), {.cache = cache_.get(),
                                                   .seed = c.seed,
                                                   .sampling = plan_sampling(c.options),
                                                   .logit_bias = c.options.logit_bias,
                                                   .history = c.history.entries(),
                                                   .stop_ids = c.stop_ids,
                                                   .min_new_tokens = c.min_new_tokens,
                                                   .logprobs = c.logprobs});
    }
  }

  // Several steps of all cases over fresh logits; every result is compared.
  void run(std::vector<Case>& cases, int steps, std::mt19937_64& random, double scale) {
    join(cases);
    for (int step = 0; step < steps; ++step) {
      compare(cases, step,
              random_logits(random, cases.size() * static_cast<std::size_t>(vocab_), scale));
    }
  }

  void compare(std::vector<Case>& cases, int step, const std::vector<float>& logits) {
    Tensor target = logits_.rows(0, static_cast<std::int64_t>(cases.size()));
    backend_->copy_to_device(target, logits.data());
    loop_->launch();
    const auto results = loop_->collect();
    for (std::size_t row = 0; row < cases.size(); ++row) {
      SCOPED_TRACE("row " + std::to_string(row) + " step " + std::to_string(step) + " vocab " +
                   std::to_string(vocab_));
      const std::span<const float> scores(logits.data() + row * static_cast<std::size_t>(vocab_),
                                          static_cast<std::size_t>(vocab_));
      expect_same(cases[row], scores, step, results[row]);
    }
    EXPECT_TRUE(same_bits(to_host(*backend_, target), logits)) << "logits were changed for good";
  }

 private:
  void expect_same(Case& c, std::span<const float> scores, int step, const DecodeResult& got) {
    const bool stop_allowed = step + 1 >= c.min_new_tokens;
    std::int32_t want = 0;
    try {
      want = sampler_.sample(scores, c.options, c.history, c.seed, static_cast<std::int64_t>(step),
                             stop_allowed ? std::span<const std::int64_t>() : c.stop_ids);
    } catch (const NumericError& error) {
      EXPECT_NE(got.fault, LogitFault::kNone) << error.what();
      try {
        fail_logits(got.fault, got.faulty);
      } catch (const NumericError& ours) {
        EXPECT_STREQ(ours.what(), error.what());
      }
      return;
    }
    ASSERT_EQ(got.fault, LogitFault::kNone);
    ASSERT_EQ(got.token, want);
    if (uses_history(c.options)) c.history.add_output(want);
    if (c.logprobs < 0) return;
    const TokenLogprob logprob = token_logprob(scores, want, c.logprobs);
    EXPECT_NEAR(got.logprob, logprob.logprob, 2e-6 * (1.0 + std::fabs(logprob.logprob)));
    for (std::size_t i = 0; i < logprob.top.size(); ++i) {
      ASSERT_EQ(got.top[i].token, logprob.top[i].first) << i;
      if (std::isinf(logprob.top[i].second)) continue;
      EXPECT_NEAR(got.top[i].logprob, logprob.top[i].second,
                  2e-6 * (1.0 + std::fabs(logprob.top[i].second)));
    }
  }

  std::int64_t vocab_;
  Sampler sampler_;
  std::unique_ptr<Backend> backend_ = make_cuda_backend({DeviceType::kCuda, 0});
  Tensor logits_;
  std::unique_ptr<KVCache> cache_;
  std::unique_ptr<DecodeLoop> loop_;
};

Case random_case(std::mt19937_64& random, std::int64_t vocab) {
  const auto chance = [&random](int one_in) { return random() % one_in == 0; };
  const auto uniform = [&random](double low, double high) {
    return low + (high - low) * static_cast<double>(random() % 1'000'000) * 1e-6;
  };
  const auto token = [&] { return static_cast<std::int64_t>(random() % vocab); };
  Case c;
  c.seed = random();
  c.options.temperature = chance(4) ? 0.0 : uniform(0.2, 2.0);
  if (chance(2)) {
    c.options.top_k = 1 + static_cast<std::int64_t>(random() % (chance(2) ? 60 : vocab));
  }
  if (chance(2)) c.options.top_p = uniform(0.1, 1.0);
  if (chance(3)) c.options.min_p = uniform(0.0, 0.3);
  if (chance(3)) c.options.repetition_penalty = uniform(0.5, 2.0);
  if (chance(3)) c.options.presence_penalty = uniform(-2.0, 2.0);
  if (chance(3)) c.options.frequency_penalty = uniform(-2.0, 2.0);
  if (chance(3)) {
    std::vector<bool> used(static_cast<std::size_t>(vocab));
    for (int i = 0; i < 20; ++i) {
      const std::int64_t id = token();
      if (used[static_cast<std::size_t>(id)]) continue;
      used[static_cast<std::size_t>(id)] = true;
      c.options.logit_bias.push_back({id, uniform(-5.0, 10.0)});
    }
  }
  if (uses_history(c.options)) {
    for (int i = 0; i < 40; ++i) c.history.add_prompt(static_cast<std::int32_t>(token()));
  }
  if (chance(3)) {
    c.min_new_tokens = 3;
    for (int i = 0; i < 5; ++i) c.stop_ids.push_back(token());
  }
  if (chance(2)) c.logprobs = static_cast<std::int64_t>(random() % 65);
  return c;
}

// Columns of the logits and how many of them are tokens.
class CudaSamplingVocabTest
    : public ::testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

INSTANTIATE_TEST_SUITE_P(Vocab, CudaSamplingVocabTest,
                         ::testing::Values(std::pair{7, 7}, std::pair{320, 320},
                                           std::pair{1024, 1000}, std::pair{50257, 50250},
                                           std::pair{128256, 128256}),
                         [](const auto& info) { return std::to_string(info.param.first); });

TEST_P(CudaSamplingVocabTest, chooses_what_the_host_chooses) {
  const auto [vocab, valid] = GetParam();
  std::mt19937_64 random(static_cast<std::uint64_t>(vocab));
  SamplingWorld world(8, vocab, valid);
  const int rounds = vocab > 10000 ? 4 : 25;
  for (int round = 0; round < rounds; ++round) {
    std::vector<Case> cases;
    for (int i = 0; i < 8; ++i) cases.push_back(random_case(random, vocab));
    for (Case& c : cases) c.logprobs = std::min<std::int64_t>(c.logprobs, vocab);
    world.run(cases, 6, random, round % 3 == 0 ? 0.05 : 3.0);  // flat and peaked
  }
}

TEST(CudaSamplingTest, L2_equal_logits_and_cuts_among_them) {
  constexpr std::int64_t kVocab = 20000;
  SamplingWorld world(4, kVocab, kVocab);
  std::mt19937_64 random(2);
  std::vector<Case> cases(4);
  cases[1].options.temperature = 1.0;
  cases[1].options.top_k = 5;
  cases[2].options.temperature = 0.7;
  cases[2].options.top_p = 0.5;
  cases[3].options.temperature = 1.3;
  for (Case& c : cases) c.logprobs = 64;
  world.run(cases, 5, random, 0.0);  // zeros, a few of them -inf
}

TEST(CudaSamplingTest, L1_a_bad_row_fails_alone) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal;
  for (const float bad : {kNan, kInf, -kInf}) {
    SamplingWorld world(4, 1000, 990);
    std::vector<Case> cases(4);
    std::vector<float> logits(4000);
    for (float& x : logits) x = normal(random);
    if (bad < 0.0f) {
      std::fill(logits.begin() + 1000, logits.begin() + 2000, bad);
    } else {
      logits[1000 + 345] = bad;
      logits[1000 + 700] = kNan;
    }
    logits[2000 + 995] = bad;  // padding is not looked at
    world.join(cases);
    world.compare(cases, 0, logits);
  }
}

}  // namespace
}  // namespace moa_rt::testing
