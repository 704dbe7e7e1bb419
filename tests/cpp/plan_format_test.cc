// The file format of plans: what is written, and what is refused with which words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "moa_rt/error.h"
#include "moa_rt/plan.h"

namespace {

using moa_rt::AttentionPlan;
using testing::HasSubstr;

constexpr std::int64_t kOne = std::int64_t{1} << 32;

AttentionPlan sample_plan() {
  AttentionPlan plan = AttentionPlan::from_rules(
      {{{0, kOne / 2, 0}, {-512, kOne, 0}}, {{128, 0, 0}, {0, moa_rt::beta_to_q32(0.3), 1024}}}, 64,
      64, 1024, 8192);
  plan.model_name = "tiny";
  plan.fingerprint = "abc";
  plan.provenance = {{"method", "by hand"}, {"author", "\"é\"\n"}};
  plan.quality = {{"passkey@4096", 0.95}, {"ppl", 1e-7}};
  plan.extensions = {{"x_note", "{\"b\": [1, 2.5], \"a\": null}"}};
  return plan;
}

TEST(PlanFile, json_round_trip_is_byte_identical) {
  const AttentionPlan plan = sample_plan();
  const std::string text = plan.to_json();
  const AttentionPlan again = AttentionPlan::parse(text);
  EXPECT_EQ(again.rules(), plan.rules());
  EXPECT_EQ(again.provenance, plan.provenance);
  EXPECT_EQ(again.quality, plan.quality);
  EXPECT_EQ(again.to_json(), text);
  EXPECT_EQ(AttentionPlan::parse(again.to_json()), again);
  EXPECT_EQ(text, R"({
  "granularity": "kv_head",
  "length_range": [1024, 8192],
  "model": {"fingerprint": "abc", "name": "tiny"},
  "out_of_range": "dense",
  "provenance": {"author": "\"é\"\n", "method": "by hand"},
  "quality": {"passkey@4096": 0.95, "ppl": 1e-07},
  "rounding": 64,
  "rules": [
    [[0, 0.5], [-512, 1]],
    [[128, 0], [0, 0.3, 1024]]
  ],
  "sink_size": 64,
  "version": 1,
  "x_note": {"a":null,"b":[1,2.5]}
}
)");
}

TEST(PlanFile, to_json_refuses_what_json_cannot_say) {
  AttentionPlan plan = sample_plan();
  plan.quality["ppl"] = std::nan("");
  EXPECT_THROW(plan.to_json(), moa_rt::ArgumentError);
  plan = sample_plan();
  plan.model_name = "\xff";
  EXPECT_THROW(plan.to_json(), moa_rt::ArgumentError);
  plan = sample_plan();
  plan.extensions["note"] = "1";
  EXPECT_THROW(plan.to_json(), moa_rt::ArgumentError);
  plan = sample_plan();
  plan.extensions["x_note"] = "{";
  EXPECT_THROW(plan.to_json(), moa_rt::ArgumentError);
  plan = sample_plan();
  plan.quality["ppl"] = -0.0;
  EXPECT_THAT(plan.to_json(), HasSubstr("\"ppl\": 0}"));
}

TEST(PlanFile, save_and_load) {
  const std::string path = testing::TempDir() + "moa_rt_plan_test.json";
  const AttentionPlan plan = AttentionPlan::parse(sample_plan().to_json());
  plan.save(path);
  EXPECT_EQ(AttentionPlan::load(path), plan);
  std::ifstream file(path, std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), plan.to_json());
  std::filesystem::remove(path);
  EXPECT_THROW(AttentionPlan::load(path), moa_rt::IoError);
  // A plan that load() would refuse is not written.
  EXPECT_THROW(AttentionPlan::from_rules({{{-1, 0, 0}}}).save(path), moa_rt::FormatError);
  EXPECT_FALSE(std::filesystem::exists(path));
}

// One file of the corpus, the class of its error and words that its message must hold.
struct BadFile {
  const char* name;
  moa_rt::ErrorCode code;
  std::vector<const char*> words;
};

std::ostream& operator<<(std::ostream& out, const BadFile& file) { return out << file.name; }

constexpr auto kFormat = moa_rt::ErrorCode::kFormat;
constexpr auto kMismatch = moa_rt::ErrorCode::kMismatch;
constexpr auto kUnsupported = moa_rt::ErrorCode::kUnsupported;

const std::vector<BadFile>& bad_files() {
  static const std::vector<BadFile> files = {
      {"E1_no_version", kFormat, {"version: got nothing, want 1"}},
      {"E1_version_0", kFormat, {"version", "got", "0"}},
      {"E1_version_string", kFormat, {"version: got string", "want an integer"}},
      {"E1_version_float", kFormat, {"version", "1.0"}},
      {"E1_version_null", kFormat, {"version"}},
      {"E1_version_2", kUnsupported, {"plan version 2, this build reads 1"}},
      {"E1_reference_style", kFormat, {"version", "moa-tools plan import"}},
      {"E2_ragged_rows", kMismatch, {"layer 1: KV heads: got 1, want 2 as in layer 0"}},
      {"E2_alpha_without_beta", kFormat, {"layer 0, KV head 0", "[0]", "[alpha, beta]"}},
      {"E2_four_numbers", kFormat, {"layer 0, KV head 0", "[alpha, beta, max_span]"}},
      {"E2_rule_not_an_array", kFormat, {"layer 0, KV head 0", "got 0.5"}},
      {"E2_layer_not_an_array", kFormat, {"layer 1", "an array of rules"}},
      {"E3_no_granularity", kFormat, {"granularity"}},
      {"E3_query_head", kMismatch, {"granularity: got \"query_head\", want \"kv_head\""}},
      {"E3_layer", kMismatch, {"granularity: got \"layer\""}},
      {"E5_alpha_nan", kFormat, {"invalid JSON at byte"}},
      {"E5_alpha_1e308", kFormat, {"layer 0, KV head 0: alpha", "1e+308", "integer"}},
      {"E5_alpha_1e400", kFormat, {"1e400"}},
      {"E5_alpha_2_70", kFormat, {"layer 0, KV head 0: alpha", "integer"}},
      {"E5_alpha_too_large", kFormat, {"layer 0, KV head 0: alpha: got 2097153", "2097152"}},
      {"E5_alpha_too_small", kFormat, {"layer 0, KV head 0: alpha: got -2097153"}},
      {"E5_alpha_fraction", kFormat, {"alpha: got 0.5, want an integer"}},
      {"E5_alpha_string", kFormat, {"alpha", "want an integer"}},
      {"E5_alpha_null", kFormat, {"alpha: got null"}},
      {"E5_alpha_minus_zero", kFormat, {"alpha: got -0.0"}},
      {"E5_beta_infinity", kFormat, {"invalid JSON at byte"}},
      {"E5_beta_1e308", kFormat, {"beta: got 1e+308, want a number in 0..1"}},
      {"E5_beta_above_1", kFormat, {"beta: got 1.0000001, want a number in 0..1"}},
      {"E5_beta_negative", kFormat, {"beta: got -0.1"}},
      {"E5_beta_string", kFormat, {"beta", "want a number"}},
      {"E5_beta_null", kFormat, {"beta: got null"}},
      {"E5_beta_bool", kFormat, {"beta: got true"}},
      {"E5_beta_minus_zero", kFormat, {"beta: got -0.0"}},
      {"E6_zero_at_min", kFormat, {"layer 0, KV head 1", "N = 1024", "got 0"}},
      {"E6_negative_at_min", kFormat, {"layer 0, KV head 1", "N = 1024", "got -1"}},
      {"E6_beta_zero", kFormat, {"layer 1, KV head 0", "N = 1024", "got 0"}},
      {"E8_policy_unknown", kFormat, {"out_of_range", "extrapolate", "\"dense\" or \"refuse\""}},
      {"E8_policy_missing", kFormat, {"out_of_range"}},
      {"E8_range_reversed", kFormat, {"max_length: got 1024, want 8192.."}},
      {"E8_range_zero", kFormat, {"min_length: got 0"}},
      {"E8_range_too_long", kFormat, {"max_length: got 2097153"}},
      {"E8_range_one_number", kFormat, {"length_range", "[min, max]"}},
      {"E10_sink_negative", kFormat, {"sink_size", "-1"}},
      {"E10_sink_above_span", kFormat, {"layer 1, KV head 1: max_span: got 1024, want 1088.."}},
      {"E10_sink_float", kFormat, {"sink_size", "64.0"}},
      {"E10_rounding_zero", kFormat, {"rounding", "0"}},
      {"E10_rounding_48", kFormat, {"rounding: got 48, want a power of two"}},
      {"E10_rounding_2048", kFormat, {"rounding: got 2048, want 1..1024"}},
      {"E10_max_span_not_a_multiple", kFormat, {"max_span: got 1000, want a multiple of 64"}},
      {"E10_max_span_zero", kFormat, {"layer 1, KV head 1: max_span: got 0"}},
      {"E10_max_span_too_large", kFormat, {"max_span: got 2097216"}},
      {"E11_duplicate_key", kFormat, {"rounding", "duplicate key"}},
      {"E11_duplicate_rules", kFormat, {"rules", "duplicate key"}},
      {"E11_unknown_key", kFormat, {"roundin", "unknown key"}},
      {"E11_unknown_model_key", kFormat, {"model", "nam", "unknown key"}},
      {"E11_no_rules", kFormat, {"rules"}},
      {"E11_no_layers", kFormat, {"layers: got 0"}},
      {"E11_no_heads", kFormat, {"KV heads: got 0"}},
      {"E11_provenance_number", kFormat, {"provenance", "samples", "want a string"}},
      {"E11_quality_string", kFormat, {"quality", "passkey", "want a number"}},
      {"E11_array_at_top", kFormat, {"an object"}},
      {"E11_empty", kFormat, {"invalid JSON at byte"}},
      {"E11_trailing_text", kFormat, {"invalid JSON at byte"}},
      {"E14_depth_7", kFormat, {"depth > 6"}},
  };
  return files;
}

std::string corpus(const std::string& name) {
  return std::string(MOA_RT_TEST_DATA) + "/malformed/plan/" + name + ".json";
}

class BadPlan : public testing::TestWithParam<BadFile> {};

TEST_P(BadPlan, is_refused) {
  const std::string path = corpus(GetParam().name);
  try {
    AttentionPlan::load(path);
    FAIL() << "was accepted";
  } catch (const moa_rt::Error& error) {
    EXPECT_EQ(moa_rt::error_name(error.code()), moa_rt::error_name(GetParam().code));
    EXPECT_THAT(error.what(), testing::StartsWith(path + ": "));
    for (const char* word : GetParam().words) EXPECT_THAT(error.what(), HasSubstr(word));
  }
}

INSTANTIATE_TEST_SUITE_P(Corpus, BadPlan, testing::ValuesIn(bad_files()),
                         [](const auto& test) { return std::string(test.param.name); });

// The corpus differs from a good file by one fault each, and none is left out of the table.
TEST(PlanFile, corpus_is_complete) {
  EXPECT_EQ(AttentionPlan::load(corpus("valid")).head_span(1, 1, 8192).span(), 1024);
  std::size_t files = 0;
  const auto folder = std::filesystem::path(corpus("valid")).parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files += entry.path().extension() == ".json" ? 1 : 0;
  }
  EXPECT_EQ(files, bad_files().size() + 2);  // and the two good ones
}

TEST(PlanFile, E11_keys_under_x_are_kept) {
  const AttentionPlan plan = AttentionPlan::load(corpus("extension"));
  EXPECT_EQ(plan.extensions.at("x_note"), "{\"a\":\"é\",\"b\":[1,2.5]}");
  EXPECT_EQ(AttentionPlan::parse(plan.to_json()), plan);
}

// Bytes changed, dropped and doubled at random: refused with an error of ours, or a plan that says
// so.
TEST(PlanFile, random_damage) {
  const std::string good = sample_plan().to_json();
  std::mt19937_64 random(21);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text = good;
    for (std::size_t i = 1 + random() % 3; i > 0; --i) {
      const std::size_t place = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[place] = "0123456789-.eE,[]{}\"x \xff"[random() % 24];
          break;
        case 1:
          text.erase(place, 1 + random() % 5);
          break;
        default:
          text.insert(place, text.substr(random() % text.size(), 1 + random() % 8));
      }
    }
    try {
      const AttentionPlan plan = AttentionPlan::parse(text);
      ASSERT_EQ(AttentionPlan::parse(plan.to_json()), plan) << text;
      plan.spans(plan.min_length());
      plan.spans(plan.max_length());
      ++accepted;
    } catch (const moa_rt::Error& error) {
      ASSERT_NE(error.code(), moa_rt::ErrorCode::kInternal);
    }
  }
  EXPECT_GT(accepted, 100);
}

TEST(PlanFile, E14_size_limit) {
  std::string text = sample_plan().to_json();
  text.append((std::size_t{16} << 20) - text.size(), ' ');
  EXPECT_NO_THROW(AttentionPlan::parse(text));
  text += ' ';
  EXPECT_THAT([&] { AttentionPlan::parse(text); },
              testing::ThrowsMessage<moa_rt::FormatError>(HasSubstr("16777216")));
  const std::string path = testing::TempDir() + "moa_rt_plan_500mb.json";
  std::ofstream(path).put('{');
  std::filesystem::resize_file(path, 500'000'000);  // sparse
  EXPECT_THROW(AttentionPlan::load(path), moa_rt::FormatError);
  std::filesystem::remove(path);
}

TEST(PlanFile, E14_deep_nesting_takes_no_stack) {
  EXPECT_THAT([] { AttentionPlan::parse(std::string(10'000'000, '[')); },
              testing::ThrowsMessage<moa_rt::FormatError>(HasSubstr("depth > 6")));
}

TEST(PlanFile, E18_equal_content_gives_equal_bytes) {
  // Keys in another order, other spacing, other spellings of the same numbers.
  const std::string text = AttentionPlan::load(corpus("valid")).to_json();
  const std::string other =
      R"({"version":1,"rules":[[[0,5e-1],[-512,1.0]],[[128,0.0],[0,0.25,1024]]],"sink_size":64,)"
      R"("rounding":64,"quality":{},"out_of_range":"dense","model":{"name":"tiny"},)"
      R"("length_range":[1024,8192],"granularity":"kv_head"})";
  EXPECT_EQ(AttentionPlan::parse(other).to_json(), text);
}

}  // namespace
