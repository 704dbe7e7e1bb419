// Plans: construction, figures, the model they belong to.
#include "moa_rt/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>

#include "moa_rt/error.h"

namespace {

using moa_rt::AttentionPlan;
using moa_rt::HeadSpan;
using moa_rt::ModelConfig;
using moa_rt::OutOfRange;
using moa_rt::SpanRule;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::int64_t kOne = std::int64_t{1} << 32;

ModelConfig shape(std::int64_t layers, std::int64_t kv_heads) {
  ModelConfig config;
  config.num_hidden_layers = layers;
  config.num_attention_heads = 2 * kv_heads;
  config.num_key_value_heads = kv_heads;
  config.head_dim = 64;
  return config;
}

template <typename ErrorType, typename Function>
std::string message_of(Function&& function) {
  try {
    function();
  } catch (const ErrorType& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another class: ") + error.what();
  }
  return "no error";
}

AttentionPlan sample_plan() {
  AttentionPlan plan = AttentionPlan::from_rules(
      {{{0, kOne / 2, 0}, {-512, kOne, 0}}, {{128, 0, 0}, {0, moa_rt::beta_to_q32(0.3), 1024}}}, 64,
      64, 1024, 8192);
  plan.fingerprint = "abc";
  return plan;
}

TEST(Plan, widest_length_has_the_largest_cache) {
  AttentionPlan plan = sample_plan();
  for (const std::int64_t most : {1, 700, 1023, 1024, 1025, 2000, 3000, 8192, 9000}) {
    std::int64_t largest = 0;
    for (std::int64_t n = 1; n <= most; ++n) {
      largest = std::max(largest, plan.cache_bytes(n, 64, moa_rt::DType::kBF16));
    }
    const std::int64_t widest = plan.widest_length(most);
    EXPECT_LE(widest, most);
    EXPECT_EQ(plan.cache_bytes(widest, 64, moa_rt::DType::kBF16), largest) << most;
  }
  EXPECT_EQ(plan.widest_length(1024), 1023);
  plan.out_of_range = OutOfRange::kRefuse;
  EXPECT_EQ(plan.widest_length(1024), 1024);
}

TEST(Plan, dense_keeps_everything) {
  const AttentionPlan plan = AttentionPlan::dense(shape(3, 2));
  EXPECT_EQ(plan.num_layers(), 3);
  EXPECT_EQ(plan.num_kv_heads(), 2);
  for (const std::int64_t n : {1, 64, 65, 1000, 1 << 21}) {
    EXPECT_EQ(plan.density(n), 1.0);
    EXPECT_EQ(plan.head_span(2, 1, n).span(), (n + 63) / 64 * 64);
  }
  EXPECT_EQ(plan.validate().clamped_heads, 0);
}

TEST(Plan, uniform_density_is_what_was_asked_for) {
  const AttentionPlan plan = AttentionPlan::uniform(shape(3, 2), 0.25);
  EXPECT_EQ(plan.density(4096), 0.25);
  EXPECT_EQ(plan.head_span(0, 0, 4096), (HeadSpan{64, 960}));
  EXPECT_EQ(AttentionPlan::uniform(shape(1, 1), 1.0).rules(),
            AttentionPlan::dense(shape(1, 1)).rules());
  for (const double bad : {0.0, -0.0, -0.5, 1.5, 1e-12, std::nan(""), HUGE_VAL}) {
    EXPECT_THROW(AttentionPlan::uniform(shape(1, 1), bad), moa_rt::ArgumentError) << bad;
  }
}

TEST(Plan, bytes_are_the_sum_of_spans) {
  const AttentionPlan plan = sample_plan();
  // At 4096: 2048 + 3584 + 128 + 1024 tokens.
  EXPECT_EQ(plan.cache_bytes(4096, 64, moa_rt::DType::kBF16), 6784 * 2 * 64 * 2);
  EXPECT_EQ(plan.cache_bytes(4096, 80, moa_rt::DType::kF32), 6784 * 2 * 80 * 4);
  EXPECT_EQ(plan.density(4096), 6784.0 / (4 * 4096));
  EXPECT_THROW(plan.cache_bytes(4096, 0, moa_rt::DType::kF32), moa_rt::ArgumentError);
  EXPECT_THROW(plan.cache_bytes(0, 64, moa_rt::DType::kF32), moa_rt::ArgumentError);
  EXPECT_THROW(plan.density(moa_rt::kMaxTokens + 1), moa_rt::ArgumentError);
}

TEST(Plan, head_span_checks_its_arguments) {
  const AttentionPlan plan = sample_plan();
  EXPECT_THROW(plan.head_span(2, 0, 4096), moa_rt::ArgumentError);
  EXPECT_THROW(plan.head_span(-1, 0, 4096), moa_rt::ArgumentError);
  EXPECT_THROW(plan.head_span(0, 2, 4096), moa_rt::ArgumentError);
  EXPECT_THROW(plan.head_span(0, 0, 0), moa_rt::ArgumentError);
  EXPECT_THROW(plan.head_span(0, 0, moa_rt::kMaxTokens + 1), moa_rt::ArgumentError);
  EXPECT_THROW(plan.head_span(0, 0, INT64_MIN), moa_rt::ArgumentError);
}

TEST(Plan, from_rules_refuses_bad_rules) {
  const auto with = [](SpanRule rule) {
    return [rule] { AttentionPlan::from_rules({{SpanRule{}}, {rule}}); };
  };
  const auto message = [](auto&& function) { return message_of<moa_rt::ArgumentError>(function); };
  EXPECT_THAT(message(with({.alpha = (1 << 21) + 1})),
              HasSubstr("layer 1, KV head 0: alpha: got 2097153, want -2097152..2097152"));
  EXPECT_THAT(message(with({.beta_q32 = kOne + 1})), HasSubstr("beta"));
  EXPECT_THAT(message(with({.beta_q32 = -1})), HasSubstr("beta"));
  EXPECT_THAT(message(with({.max_span = 64})), HasSubstr("max_span: got 64, want 128.."));
  EXPECT_THAT(message(with({.max_span = 130})), HasSubstr("a multiple of 64"));
  EXPECT_THAT(message([] { AttentionPlan::from_rules({}); }), HasSubstr("layers: got 0"));
  EXPECT_THAT(message([] { AttentionPlan::from_rules({{}}); }), HasSubstr("KV heads: got 0"));
  EXPECT_THAT(message([] { AttentionPlan::from_rules({{{}, {}}, {{}}}); }),
              HasSubstr("layer 1: KV heads: got 1, want 2 as in layer 0"));
  EXPECT_THAT(message([] { AttentionPlan::from_rules({{{}}}, -1); }), HasSubstr("sink_size"));
  EXPECT_THAT(message([] { AttentionPlan::from_rules({{{}}}, 64, 96); }),
              HasSubstr("rounding: got 96, want a power of two"));
  EXPECT_THAT(message([] { AttentionPlan::from_rules({{{}}}, 64, 64, 10, 9); }),
              HasSubstr("max_length: got 9, want 10.."));
}

TEST(Plan, beta_keeps_short_decimals) {
  for (int thousandths = 0; thousandths <= 1000; ++thousandths) {
    std::ostringstream text;
    text << thousandths / 1000.0;
    EXPECT_EQ(moa_rt::beta_to_string(moa_rt::beta_to_q32(thousandths / 1000.0)), text.str());
  }
}

TEST(Plan, E12_beta_text_round_trips) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 200'000; ++i) {
    std::int64_t beta = static_cast<std::int64_t>(random() % (std::uint64_t{1} << 32));
    if (i < 1000) beta = i;
    if (i >= 1000 && i < 2000) beta = kOne - (i - 1000);
    const std::string text = moa_rt::beta_to_string(beta);
    ASSERT_EQ(moa_rt::beta_to_q32(std::strtod(text.c_str(), nullptr)), beta) << text;
    ASSERT_LE(text.size(), 12u);
    // No shorter decimal does: neither neighbour with one digit less.
    if (text.size() <= 3) continue;
    const double scale = std::pow(10.0, static_cast<double>(text.size()) - 3.0);
    const double floor = std::floor(static_cast<double>(beta) / static_cast<double>(kOne) * scale);
    for (const double shorter : {floor / scale, std::min(1.0, (floor + 1.0) / scale)}) {
      ASSERT_NE(moa_rt::beta_to_q32(shorter), beta) << text;
    }
  }
  for (const double bad : {-0.0, -1e-9, 1.0000001, std::nan(""), HUGE_VAL, 1e308}) {
    EXPECT_THROW(moa_rt::beta_to_q32(bad), moa_rt::ArgumentError) << bad;
  }
}

TEST(Plan, E2_model_shape) {
  const AttentionPlan plan = AttentionPlan::dense(shape(32, 32));
  EXPECT_NO_THROW(plan.check_model(shape(32, 32)));
  EXPECT_THAT(message_of<moa_rt::MismatchError>([&] { plan.check_model(shape(28, 24)); }),
              HasSubstr("plan 32x32 vs model 28x24"));
  EXPECT_THROW(plan.check_model(shape(32, 28), true), moa_rt::MismatchError);
}

TEST(Plan, E3_rules_per_query_head_do_not_fit) {
  // 8 query heads over 4 KV heads: eight rules a layer are not guessed to be for query heads.
  EXPECT_THAT(message_of<moa_rt::MismatchError>(
                  [] { AttentionPlan::dense(shape(2, 8)).check_model(shape(2, 4)); }),
              HasSubstr("plan 2x8 vs model 2x4"));
}

TEST(Plan, E4_fingerprint) {
  ModelConfig config = shape(2, 2);
  AttentionPlan plan = sample_plan();
  config.fingerprint = "abc";
  EXPECT_NO_THROW(plan.check_model(config));
  config.fingerprint = "abd";
  EXPECT_THAT(message_of<moa_rt::MismatchError>([&] { plan.check_model(config); }),
              AllOf(HasSubstr("fingerprint: got abc"), HasSubstr("abd")));
  EXPECT_NO_THROW(plan.check_model(config, true));
  config.fingerprint.clear();
  EXPECT_THROW(plan.check_model(config), moa_rt::MismatchError);
  plan.fingerprint.clear();
  EXPECT_NO_THROW(plan.check_model(config));
}

TEST(Plan, E6_names_layer_head_length_and_value) {
  const AttentionPlan plan =
      AttentionPlan::from_rules({{{}, {}}, {{}, {-512, kOne / 2, 0}}}, 64, 64, 1000, 8192);
  EXPECT_THAT(message_of<moa_rt::FormatError>([&] { plan.validate(); }),
              AllOf(HasSubstr("layer 1, KV head 1"), HasSubstr("N = 1000"), HasSubstr("got -12"),
                    HasSubstr("at least 1")));
}

// Brute force over the whole range agrees with the proof at its ends.
TEST(Plan, E6_ends_prove_the_range) {
  std::mt19937_64 random(11);
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    const SpanRule rule{
        .alpha = static_cast<std::int64_t>(random() % 401) - 200,
        .beta_q32 = static_cast<std::int64_t>(random() % (static_cast<std::uint64_t>(kOne) + 1))};
    const auto low = static_cast<std::int64_t>(1 + random() % 300);
    const auto high = low + static_cast<std::int64_t>(random() % 300);
    bool positive = true;
    bool clamped = false;
    for (std::int64_t n = low; n <= high; ++n) {
      const __int128 value =
          static_cast<__int128>(rule.alpha) * kOne + static_cast<__int128>(rule.beta_q32) * n;
      positive = positive && value > 0;
      clamped = clamped || value > static_cast<__int128>(n) * kOne;
    }
    const AttentionPlan plan = AttentionPlan::from_rules({{rule}}, 0, 1, low, high);
    if (positive) {
      EXPECT_EQ(plan.validate().clamped_heads, clamped ? 1 : 0);
    } else {
      EXPECT_THROW(plan.validate(), moa_rt::FormatError);
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(Plan, E7_clamped_heads_are_counted) {
  const AttentionPlan plan = AttentionPlan::from_rules(
      {{{2000, 0, 0}, {2000, 0, 1024}, {1024, 0, 0}, {1, kOne, 0}}}, 64, 64, 1024, 8192);
  EXPECT_EQ(plan.validate().clamped_heads, 2);
  EXPECT_EQ(plan.head_span(0, 0, 1024).span(), 1024);
  EXPECT_EQ(plan.head_span(0, 0, 4096).span(), 2048);
}

TEST(Plan, E8_outside_the_length_range) {
  AttentionPlan plan = sample_plan();
  EXPECT_EQ(plan.head_span(1, 0, 1024).span(), 128);
  EXPECT_EQ(plan.head_span(1, 0, 1023).span(), 1024);
  EXPECT_EQ(plan.head_span(1, 0, 8192).span(), 128);
  EXPECT_EQ(plan.head_span(1, 0, 8193).span(), 8256);
  EXPECT_EQ(plan.density(8193), 1.0);
  plan.out_of_range = OutOfRange::kRefuse;
  EXPECT_NO_THROW(plan.head_span(1, 0, 8192));
  EXPECT_THAT(message_of<moa_rt::ArgumentError>([&] { plan.spans(8193); }),
              HasSubstr("token budget N: got 8193, want 1024..8192"));
  EXPECT_EQ(AttentionPlan::parse(plan.to_json()).out_of_range, OutOfRange::kRefuse);
}

// N is prompt + new tokens; reading it as the prompt alone would give other spans.
TEST(Plan, E9_budget_is_not_the_prompt) {
  const AttentionPlan plan = AttentionPlan::uniform(shape(1, 1), 0.5);
  const std::int64_t prompt = 1000;
  const std::int64_t new_tokens = 1000;
  EXPECT_EQ(plan.head_span(0, 0, prompt + new_tokens).span(), 1024);
  EXPECT_EQ(plan.head_span(0, 0, prompt).span(), 512);
}

TEST(Plan, E11_missing_layer_is_seen_against_the_model) {
  EXPECT_THAT(message_of<moa_rt::MismatchError>([] { sample_plan().check_model(shape(3, 2)); }),
              HasSubstr("plan 2x2 vs model 3x2"));
}

}  // namespace
