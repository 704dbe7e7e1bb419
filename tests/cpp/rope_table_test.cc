// Against tables that transformers computed (tests/golden/make_rope_golden.py).
#include "model/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/json.h"
#include "model/rope_config.h"
#include "support/fake_backend.h"

namespace moa_rt {
namespace {

Json golden() {
  std::ifstream file(std::string(MOA_RT_TEST_DATA) + "/golden/rope.json");
  return Json::parse(file);
}

RopeConfig rope_of(const Json& test_case) {
  const Json config = {{"rope_parameters", test_case["rope_parameters"]}};
  const std::string path = "rope.json";
  return parse_rope_config(JsonObject(config, path));
}

// Relative. The power may differ in its last place, and a division can carry that to two.
constexpr double kUlp = 2.4e-7;

TEST(RopeTable, FrequenciesOfTransformers) {
  const Json document = golden();
  ASSERT_GE(document["cases"].size(), 9u);
  for (const auto& [name, test_case] : document["cases"].items()) {
    const auto head_dim = test_case["head_dim"].get<std::int64_t>();
    const std::vector<float> got = rope_inverse_frequencies(rope_of(test_case), head_dim);
    const auto want = test_case["inv_freq"].get<std::vector<double>>();
    ASSERT_EQ(got.size(), want.size()) << name;
    std::size_t equal = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], kUlp * want[i]) << name << " " << i;
      equal += got[i] == static_cast<float>(want[i]) ? 1 : 0;
    }
    EXPECT_GE(equal + 1, want.size()) << name;
  }
}

TEST(RopeTable, CosAndSinOfTransformers) {
  const Json document = golden();
  const auto positions = document["positions"].get<std::vector<std::int64_t>>();
  for (const auto& [name, test_case] : document["cases"].items()) {
    ModelConfig config;
    config.rope = rope_of(test_case);
    config.head_dim = test_case["head_dim"].get<std::int64_t>();
    testing::FakeBackend backend;
    const RopeTable table = make_rope_table(config, positions.back() + 1, backend);
    const std::int64_t half = config.head_dim / 2;
    ASSERT_EQ(table.cos.dim(0), positions.back() + 1);
    ASSERT_EQ(table.cos.dim(1), half);
    const auto frequencies = test_case["inv_freq"].get<std::vector<double>>();
    for (std::size_t row = 0; row < positions.size(); ++row) {
      for (std::int64_t i = 0; i < half; ++i) {
        // A frequency off by its last bit turns the angle by as much; else only cos itself rounds.
        const double angle = static_cast<double>(positions[row]) * frequencies[i];
        const bool is_equal =
            rope_inverse_frequencies(config.rope, config.head_dim)[static_cast<std::size_t>(i)] ==
            static_cast<float>(frequencies[i]);
        const double tolerance = is_equal ? 1e-7 : 1e-7 + kUlp * angle;
        const std::int64_t at = positions[row] * half + i;
        EXPECT_NEAR(table.cos.data<float>()[at], test_case["cos"][row][i].get<double>(), tolerance)
            << name << " position " << positions[row] << " pair " << i;
        EXPECT_NEAR(table.sin.data<float>()[at], test_case["sin"][row][i].get<double>(), tolerance)
            << name << " position " << positions[row] << " pair " << i;
      }
    }
  }
}

TEST(RopeTable, PositionZeroIsTheIdentityAndRowsDoNotDependOnTheCount) {
  ModelConfig config;
  config.head_dim = 16;
  testing::FakeBackend backend;
  const RopeTable one = make_rope_table(config, 1, backend);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(one.cos.data<float>()[i], 1.0f);
    EXPECT_EQ(one.sin.data<float>()[i], 0.0f);
  }
  const RopeTable some = make_rope_table(config, 1025, backend);  // one block and a row
  const RopeTable more = make_rope_table(config, 3000, backend);
  for (int i = 0; i < 1025 * 8; ++i) {
    ASSERT_EQ(some.cos.data<float>()[i], more.cos.data<float>()[i]);
    ASSERT_EQ(some.sin.data<float>()[i], more.sin.data<float>()[i]);
  }
}

}  // namespace
}  // namespace moa_rt
