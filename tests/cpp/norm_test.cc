#include <gtest/gtest.h>

#include <cmath>

#include "ops/ops.h"
#include "support/backends.h"
#include "support/tolerance.h"

namespace moa_rt {
namespace {

class NormTest : public BackendTest {
 protected:
  static std::vector<float> norm(Backend& backend, std::vector<float> x, std::vector<float> weight,
                                 double eps) {
    const auto cols = static_cast<std::int64_t>(weight.size());
    const auto rows = static_cast<std::int64_t>(x.size()) / cols;
    std::vector<float> out = poisoned(rows * cols);
    Tensor out_view = matrix_view(out, rows, cols);
    ops::rms_norm(backend, matrix_view(x, rows, cols), vector_view(weight), eps, out_view);
    return out;
  }
};

TEST_P(NormTest, equals_the_definition) {
  const auto backend = make_backend();
  for (const std::int64_t cols : {1, 3, 8, 63, 64, 576, 1537}) {
    for (const double eps : {1e-6, 1e-5}) {
      const auto x = random_floats(3 * cols, 1, 4.0f);
      const auto weight = random_floats(cols, 2);
      std::vector<double> want;
      double scale = 0.0;
      for (std::int64_t m = 0; m < 3; ++m) {
        double sum = 0.0;
        for (std::int64_t i = 0; i < cols; ++i) {
          const double value = x[static_cast<std::size_t>(m * cols + i)];
          sum += value * value;
        }
        const double root = std::sqrt(sum / static_cast<double>(cols) + eps);
        for (std::int64_t i = 0; i < cols; ++i) {
          want.push_back(x[static_cast<std::size_t>(m * cols + i)] / root *
                         weight[static_cast<std::size_t>(i)]);
          scale = std::max(scale, std::fabs(want.back()));
        }
      }
      expect_close(norm(*backend, x, weight, eps), want, tolerance(dtype()).elementwise, scale,
                   "cols " + std::to_string(cols));
    }
  }
}

// L4: zeros and subnormals give finite results through eps.
TEST_P(NormTest, L4_zero_and_subnormal_rows_stay_finite) {
  const auto backend = make_backend();
  for (const float value : {0.0f, -0.0f, 1e-40f}) {
    const auto out =
        norm(*backend, std::vector<float>(70, value), std::vector<float>(70, 2.0f), 1e-6);
    for (const float x : out) EXPECT_NEAR(x, 2.0 * value / 1e-3, 1e-41);
  }
}

TEST_P(NormTest, rows_are_bit_equal_in_every_batch_and_in_place) {
  const std::int64_t cols = 577, rows = 100;
  const auto weight = random_floats(cols, 2);
  const auto x = random_floats(rows * cols, 1);
  const auto together = norm(*make_backend(3), x, weight, 1e-5);
  const auto backend = make_backend(1);
  for (std::int64_t m = 0; m < rows; ++m) {
    const std::vector<float> row(x.begin() + m * cols, x.begin() + (m + 1) * cols);
    EXPECT_TRUE(
        same_bits(norm(*backend, row, weight, 1e-5), std::span(together).subspan(m * cols, cols)));
  }
  std::vector<float> in_place = x, scale = weight;
  Tensor view = matrix_view(in_place, rows, cols);
  ops::rms_norm(*backend, view, vector_view(scale), 1e-5, view);
  EXPECT_TRUE(same_bits(in_place, together));
}

MOA_RT_FOR_EVERY_VARIANT(NormTest);

}  // namespace
}  // namespace moa_rt
