// The engine as a whole on a tiny random model: batching, chunking, memory and determinism.
#include "moa_rt/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>
#include <thread>

#include "support/engine_scenes.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt {
namespace {

using testing::mixed_plan;
using testing::random_tokens;
using testing::TempDir;
using testing::TinyShape;
using testing::Tokens;
using testing::write_tiny_model;

class EngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_tiny_model(dir_->path());
  }
  static void TearDownTestSuite() { delete dir_; }

  static EngineOptions options(const char* dtype = "float32") {
    EngineOptions out;
    out.plan = mixed_plan();
    out.dtype = dtype;
    out.num_threads = 2;
    return out;
  }
  static Engine open(const EngineOptions& engine_options = options()) {
    return Engine(dir_->path(), engine_options);
  }
  static RequestOptions request(std::int64_t new_tokens, std::int64_t logprobs = -1) {
    return testing::greedy_request(new_tokens, logprobs);
  }

  static inline TempDir* dir_ = nullptr;
};

void expect_same(const Completion& a, const Completion& b) {
  EXPECT_EQ(a.token_ids, b.token_ids);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (std::size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(a.logprobs[i].logprob, b.logprobs[i].logprob) << "token " << i;
    EXPECT_EQ(a.logprobs[i].top, b.logprobs[i].top) << "token " << i;
  }
}

class EngineDtypeTest : public EngineTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, EngineDtypeTest, ::testing::Values("float32", "bfloat16"));

TEST_P(EngineDtypeTest, H4_ragged_batch_is_bit_equal_to_each_alone) {
  Engine engine = open(options(GetParam()));
  const std::vector<Tokens> prompts = {random_tokens(3, 1), random_tokens(150, 2),
                                       random_tokens(400, 3), random_tokens(64, 4)};
  const auto together = engine.generate(prompts, request(40, 5));
  const std::vector<Tokens> reversed(prompts.rbegin(), prompts.rend());
  const auto backwards = engine.generate(reversed, request(40, 5));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = engine.generate({prompts[i]}, request(40, 5));
    expect_same(together[i], alone[0]);
    expect_same(backwards[prompts.size() - 1 - i], alone[0]);
  }
}

TEST_P(EngineDtypeTest, thread_count_does_not_change_a_bit) {
  const Tokens prompt = random_tokens(200, 5);
  EngineOptions one = options(GetParam());
  one.num_threads = 1;
  EngineOptions three = options(GetParam());
  three.num_threads = 3;
  Engine a = open(one);
  Engine b = open(three);
  EXPECT_EQ(a.logits(prompt), b.logits(prompt));
}

TEST_F(EngineTest, H6_any_prefill_chunking_gives_the_same_logits) {
  const Tokens tokens = random_tokens(300, 6);
  EngineOptions whole = options();
  whole.prefill_chunk = 512;
  const std::vector<float> expected = open(whole).logits(tokens);
  for (const std::int64_t chunk : {1, 7, 64, 127, 128, 299}) {
    EngineOptions chunked = options();
    chunked.prefill_chunk = chunk;
    const std::vector<float> got = open(chunked).logits(tokens);
    ASSERT_EQ(got.size(), expected.size());
    float worst = 0.0f;
    for (std::size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::abs(got[i] - expected[i]));
    }
    EXPECT_LT(worst, 1e-4f) << "chunk " << chunk;
  }
}

TEST_F(EngineTest, H10_spans_of_at_least_n_equal_dense) {
  const Tokens tokens = random_tokens(200, 7);
  EngineOptions dense = options();
  dense.plan.reset();
  EngineOptions wide = options();
  wide.plan = AttentionPlan::from_rules(
      std::vector<std::vector<SpanRule>>(3, std::vector<SpanRule>(2, SpanRule{4096, 0, 0})));
  EXPECT_EQ(open(dense).logits(tokens), open(wide).logits(tokens));
}

TEST_F(EngineTest, score_is_the_log_softmax_of_logits) {
  Engine engine = open();
  const Tokens tokens = random_tokens(90, 8);
  const std::vector<float> logits = engine.logits(tokens);
  const std::vector<float> scores = engine.score(tokens);
  ASSERT_EQ(scores.size(), tokens.size() - 1);
  const auto vocab = static_cast<std::size_t>(engine.config().vocab_size);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    double sum = 0.0;
    for (std::size_t v = 0; v < vocab; ++v) sum += std::exp(double{logits[i * vocab + v]});
    const double want = logits[i * vocab + static_cast<std::size_t>(tokens[i + 1])] - std::log(sum);
    EXPECT_NEAR(scores[i], want, 1e-4);
  }
}

TEST_F(EngineTest, greedy_follows_the_scored_distribution) {
  Engine engine = open();
  const Tokens prompt = random_tokens(150, 9);
  const Completion out = engine.generate({prompt}, request(60, 0))[0];
  Tokens all = prompt;
  all.insert(all.end(), out.token_ids.begin(), out.token_ids.end());
  const std::vector<float> scores = engine.score(all);
  ASSERT_EQ(out.token_ids.size(), 60u);
  for (std::size_t i = 0; i < 60; ++i) {
    EXPECT_NEAR(out.logprobs[i].logprob, scores[prompt.size() - 1 + i], 1e-4) << i;
  }
}

TEST_F(EngineTest, decode_takes_nothing_from_the_allocator) {
  Engine engine = open();
  engine.submit(random_tokens(40, 10), request(200));
  engine.submit(random_tokens(90, 11), request(200));
  while (engine.stats().decode_tokens == 0) engine.step();
  const std::int64_t before = engine.stats().allocations;
  for (int i = 0; i < 150; ++i) engine.step();
  EXPECT_GE(engine.stats().decode_tokens, 300);
  EXPECT_EQ(engine.stats().allocations, before);
}

TEST_F(EngineTest, kv_bytes_are_the_sum_of_spans_and_given_back) {
  Engine engine = open();
  const AttentionPlan plan = mixed_plan();
  engine.submit(random_tokens(100, 12), request(20));
  engine.submit(random_tokens(300, 13), request(50));
  engine.step();
  const std::int64_t want =
      plan.cache_bytes(120, 64, DType::kF32) + plan.cache_bytes(350, 64, DType::kF32);
  EXPECT_EQ(engine.memory().kv_cache, want);
  while (engine.has_work()) engine.step();
  EXPECT_EQ(engine.memory().kv_cache, 0);
  EXPECT_EQ(engine.memory().kv_cache_peak, want);
}

TEST_F(EngineTest, admission_waits_for_exact_bytes) {
  const AttentionPlan plan = mixed_plan();
  EngineOptions tight = options();
  tight.max_seq_len = 400;
  tight.kv_cache_bytes = plan.cache_bytes(400, 64, DType::kF32);
  Engine engine = open(tight);
  const std::vector<Tokens> prompts = {random_tokens(360, 14), random_tokens(360, 15)};
  const auto out = engine.generate(prompts, request(40, 3));
  EXPECT_EQ(engine.memory().kv_cache_peak, tight.kv_cache_bytes);
  Engine roomy = open();
  expect_same(out[1], roomy.generate({prompts[1]}, request(40, 3))[0]);
}

TEST_F(EngineTest, E13_a_sequence_that_can_never_fit_is_refused_with_the_missing_bytes) {
  const AttentionPlan plan = mixed_plan();
  const std::int64_t need = plan.cache_bytes(400, 64, DType::kF32);
  EngineOptions tight = options();
  tight.kv_cache_bytes = need - 1;
  tight.max_seq_len = 400;
  Engine engine = open(tight);
  try {
    engine.submit(random_tokens(360, 16), request(40));
    FAIL() << "admitted";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("missing 1"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr(std::to_string(need)));
  }
}

TEST_F(EngineTest, E13_a_bound_beyond_all_memory_is_refused) {
  EngineOptions greedy = options();
  greedy.kv_cache_bytes = INT64_MAX;
  try {
    open(greedy);
    FAIL() << "opened";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("KV caches 9223372036854775807"));
  }
}

TEST_F(EngineTest, options_are_reported_as_resolved) {
  const Engine engine = open({});
  EXPECT_EQ(engine.options().dtype, "float32");
  EXPECT_GT(engine.options().num_threads, 0);
  EXPECT_GT(engine.options().max_seq_len, 0);
  EXPECT_GT(engine.options().kv_cache_bytes, 0);
}

TEST(EngineMemoryTest, E13_too_little_memory_is_refused_before_weights_are_read) {
  const TempDir dir;
  TinyShape shape;
  shape.layers = 100;
  shape.kv_heads = 4;
  shape.head_dim = 128;
  shape.max_positions = std::int64_t{1} << 21;
  write_tiny_model(dir.path(), shape);
  try {
    Engine engine(dir.path(), {});
    FAIL() << "opened";
  } catch (const ResourceError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("largest batch that fits: 0"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("KV bytes per layer: 8589934592 "));
  }
}

TEST_F(EngineTest, seeded_sampling_depends_on_the_seed_alone) {
  Engine engine = open();
  RequestOptions sampled = request(30);
  sampled.sampling.temperature = 1.0;
  sampled.sampling.seed = 42;
  const Tokens prompt = random_tokens(20, 17);
  const auto alone = engine.generate({prompt}, sampled)[0].token_ids;
  const auto batch = engine.generate({random_tokens(77, 18), prompt}, sampled)[1].token_ids;
  EXPECT_EQ(alone, batch);
  sampled.sampling.seed = 43;
  EXPECT_NE(alone, engine.generate({prompt}, sampled)[0].token_ids);
}

TEST_F(EngineTest, G8_two_threads_get_what_each_would_get_alone) {
  Engine engine = open();
  const Tokens a = random_tokens(50, 19);
  const Tokens b = random_tokens(120, 20);
  const auto want_a = engine.generate({a}, request(20))[0].token_ids;
  const auto want_b = engine.generate({b}, request(20))[0].token_ids;
  Tokens got_a;
  Tokens got_b;
  std::thread first([&] { got_a = engine.generate({a}, request(20))[0].token_ids; });
  std::thread second([&] { got_b = engine.generate({b}, request(20))[0].token_ids; });
  first.join();
  second.join();
  EXPECT_EQ(got_a, want_a);
  EXPECT_EQ(got_b, want_b);
}

TEST_F(EngineTest, submitted_requests_survive_a_generate_in_between) {
  Engine engine = open();
  const Tokens a = random_tokens(50, 21);
  const auto want = engine.generate({a}, request(10))[0].token_ids;
  const RequestId id = engine.submit(a, request(10));
  engine.generate({random_tokens(30, 22)}, request(40));
  Tokens got;
  FinishReason reason = FinishReason::kNone;
  while (engine.has_work()) {
    for (const TokenEvent& event : engine.step()) {
      EXPECT_EQ(event.request, id);
      if (event.token) got.push_back(*event.token);
      reason = event.finish;
    }
  }
  EXPECT_EQ(got, want);
  EXPECT_EQ(reason, FinishReason::kLength);
}

}  // namespace
}  // namespace moa_rt
