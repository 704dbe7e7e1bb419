// Bounds of the sampling options (G6, G7).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "moa_rt/error.h"
#include "runtime/sampler.h"

namespace {

using moa_rt::SamplingOptions;
using testing::AllOf;
using testing::HasSubstr;

TEST(Sampling, G6_values_out_of_bounds) {
  struct Case {
    const char* field;
    std::function<void(SamplingOptions&, double)> set;
    std::vector<double> bad;
    std::vector<double> good;
  };
  const double nan = std::nan("");
  const double inf = HUGE_VAL;
  const std::vector<Case> cases = {
      {"temperature",
       [](auto& o, double v) { o.temperature = v; },
       {nan, inf, -inf, -1.0, -1e-30, 100.1},
       {0.0, 1e-30, 1e-5, 100.0}},
      {"top_p", [](auto& o, double v) { o.top_p = v; }, {nan, inf, 0.0, -0.5, 1.0001}, {1e-9, 1.0}},
      {"min_p", [](auto& o, double v) { o.min_p = v; }, {nan, -inf, -1e-9, 1.0001}, {0.0, 1.0}},
      {"repetition_penalty",
       [](auto& o, double v) { o.repetition_penalty = v; },
       {nan, inf, 0.0, -1.0, 10.1},
       {0.1, 10.0}},
      {"presence_penalty",
       [](auto& o, double v) { o.presence_penalty = v; },
       {nan, inf, -2.1, 2.1},
       {-2.0, 2.0}},
      {"frequency_penalty",
       [](auto& o, double v) { o.frequency_penalty = v; },
       {nan, -inf, -2.1, 2.1},
       {-2.0, 2.0}},
      {"top_k",
       [](auto& o, double v) { o.top_k = static_cast<std::int64_t>(v); },
       {-1.0, 1001.0, 1e18},
       {0.0, 1000.0}},
      {"logit_bias",
       [](auto& o, double v) { o.logit_bias = {{1, v}}; },
       {nan, inf, -100.1, 1e300},
       {-100.0, 100.0}},
      {"logit_bias: token",
       [](auto& o, double v) { o.logit_bias = {{static_cast<std::int64_t>(v), 1.0}}; },
       {-1.0, 1000.0, 4294967296.0},
       {0.0, 999.0}},
  };
  for (const Case& item : cases) {
    for (const double value : item.bad) {
      SamplingOptions options;
      item.set(options, value);
      EXPECT_THAT([&] { moa_rt::validate_sampling(options, 1000); },
                  testing::ThrowsMessage<moa_rt::ArgumentError>(
                      AllOf(HasSubstr(std::string(item.field) + ": got "), HasSubstr(", want "))))
          << item.field << " " << value;
    }
    for (const double value : item.good) {
      SamplingOptions options;
      item.set(options, value);
      EXPECT_NO_THROW(moa_rt::validate_sampling(options, 1000)) << item.field << " " << value;
    }
  }
}

TEST(Sampling, G7_logit_bias_limits) {
  SamplingOptions options;
  for (std::int64_t i = 0; i < 1'000'000; ++i) options.logit_bias.emplace_back(i, 1.0);
  EXPECT_THAT([&] { moa_rt::validate_sampling(options, 1 << 20); },
              testing::ThrowsMessage<moa_rt::ArgumentError>(
                  HasSubstr("logit_bias: got 1000000 entries, want at most 1024")));
  options.logit_bias.resize(1024);
  EXPECT_NO_THROW(moa_rt::validate_sampling(options, 1 << 20));
  options.logit_bias[3].first = 9;
  EXPECT_THAT([&] { moa_rt::validate_sampling(options, 1 << 20); },
              testing::ThrowsMessage<moa_rt::ArgumentError>(HasSubstr("token 9 twice")));
}

}  // namespace
