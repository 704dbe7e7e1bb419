// Log-probabilities of given tokens against the definition in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ops/ops.h"
#include "support/backends.h"
#include "support/errors.h"
#include "support/tolerance.h"

namespace moa_rt {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class TokenLogprobsTest : public BackendTest {
 protected:
  static std::vector<RowLogprob> ask(Backend& backend, std::vector<float> logits,
                                     const std::vector<std::int32_t>& tokens) {
    const auto rows = static_cast<std::int64_t>(tokens.size());
    std::vector<RowLogprob> out(tokens.size());
    ops::token_logprobs(backend,
                        matrix_view(logits, rows, static_cast<std::int64_t>(logits.size()) / rows),
                        tokens, out);
    return out;
  }
};

double log_softmax(std::span<const float> row, std::int32_t token) {
  const double top = *std::ranges::max_element(row);
  double sum = 0.0;
  for (const float x : row) sum += std::exp(x - top);
  return row[static_cast<std::size_t>(token)] - top - std::log(sum);
}

TEST_P(TokenLogprobsTest, equal_the_definition) {
  const auto backend = make_backend();
  for (const std::int64_t cols : {1, 2, 7, 8, 17, 511, 513, 49152, 151936}) {
    // Flat, so that the tail is most of the sum, and as peaked as a sure model.
    for (const float scale : {0.01f, 3.0f, 30.0f}) {
      const std::int64_t rows = 3;
      const auto logits = random_floats(rows * cols, 5, scale);
      const std::vector<std::int32_t> tokens = {0, static_cast<std::int32_t>(cols - 1),
                                                static_cast<std::int32_t>(cols / 2)};
      const auto got = ask(*backend, logits, tokens);
      std::vector<float> values;
      std::vector<double> want;
      double size = 1.0;
      for (std::size_t r = 0; r < tokens.size(); ++r) {
        const std::span row(logits.data() + static_cast<std::int64_t>(r) * cols,
                            static_cast<std::size_t>(cols));
        EXPECT_EQ(got[r].fault, LogitFault::kNone);
        values.push_back(got[r].logprob);
        want.push_back(log_softmax(row, tokens[r]));
        size = std::max(size, std::fabs(want.back()));
      }
      expect_close(values, want, tolerance(dtype()).sum, size, "cols " + std::to_string(cols));
    }
  }
}

TEST_P(TokenLogprobsTest, a_token_that_is_ruled_out) {
  const auto backend = make_backend();
  const auto got = ask(*backend, {1.0f, -kInf, 1.0f, -kInf, 2.0f, 2.0f}, {1, 2});
  EXPECT_EQ(got[0].logprob, -kInf);
  EXPECT_NEAR(got[1].logprob, -std::log(2.0), 1e-7);
}

TEST_P(TokenLogprobsTest, L1_L2_faults_name_the_first_token) {
  const auto backend = make_backend();
  for (const std::int64_t cols : {5, 100}) {
    const auto last = static_cast<std::size_t>(cols - 1);
    const auto row_with = [&](float value, std::size_t place) {
      std::vector<float> row = random_floats(cols, 6);
      row[place] = value;
      return row;
    };
    const auto fault_of = [&](const std::vector<float>& row) { return ask(*backend, row, {0})[0]; };
    for (const std::size_t place : {std::size_t{0}, std::size_t{3}, last}) {
      const RowLogprob nan = fault_of(row_with(kNan, place));
      EXPECT_EQ(nan.fault, LogitFault::kNotANumber);
      EXPECT_EQ(nan.faulty, static_cast<std::int32_t>(place));
      const RowLogprob infinite = fault_of(row_with(kInf, place));
      EXPECT_EQ(infinite.fault, LogitFault::kInfinite);
      EXPECT_EQ(infinite.faulty, static_cast<std::int32_t>(place));
    }
    std::vector<float> both = row_with(kInf, last);
    both[1] = kNan;
    EXPECT_EQ(fault_of(both).fault, LogitFault::kNotANumber);
    EXPECT_EQ(fault_of(both).faulty, 1);
    EXPECT_EQ(fault_of(std::vector<float>(last, -kInf)).fault, LogitFault::kNothingLeft);
    EXPECT_EQ(fault_of(std::vector<float>(last, kNan)).fault, LogitFault::kNotANumber);
  }
}

TEST_P(TokenLogprobsTest, rows_are_bit_equal_in_every_batch) {
  const std::int64_t rows = 40, cols = 2049;
  const auto logits = random_floats(rows * cols, 7, 4.0f);
  std::vector<std::int32_t> tokens;
  for (std::int32_t r = 0; r < rows; ++r) tokens.push_back(r * 51);
  const auto together = ask(*make_backend(3), logits, tokens);
  const auto backend = make_backend(1);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::vector<float> row(logits.begin() + r * cols, logits.begin() + (r + 1) * cols);
    const auto index = static_cast<std::size_t>(r);
    EXPECT_EQ(ask(*backend, row, {tokens[index]})[0].logprob, together[index].logprob);
  }
}

TEST_P(TokenLogprobsTest, G2_tokens_outside_the_row) {
  const auto backend = make_backend();
  for (const std::int32_t token : {-1, 4}) {
    testing::expect_error<ArgumentError>(
        [&] { ask(*backend, {1.0f, 2.0f, 3.0f, 4.0f}, {token}); },
        {"token_logprobs", "token", std::to_string(token), "[0, 4)"});
  }
  std::vector<float> logits(8);
  std::vector<RowLogprob> out(1);
  const std::vector<std::int32_t> tokens = {0, 1};
  testing::expect_error<ArgumentError>(
      [&] { ops::token_logprobs(*backend, matrix_view(logits, 2, 4), tokens, out); },
      {"token_logprobs", "out", "got 1", "want 2"});
}

MOA_RT_FOR_EVERY_VARIANT(TokenLogprobsTest);

}  // namespace
}  // namespace moa_rt
