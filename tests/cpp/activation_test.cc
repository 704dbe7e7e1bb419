#include <gtest/gtest.h>

#include <cmath>

#include "ops/ops.h"
#include "support/backends.h"
#include "support/tolerance.h"

namespace moa_rt {
namespace {

class ActivationTest : public BackendTest {
 protected:
  // gate and up of one row each.
  static std::vector<float> silu(Backend& backend, const std::vector<float>& gate,
                                 const std::vector<float>& up) {
    std::vector<float> gate_up = gate;
    gate_up.insert(gate_up.end(), up.begin(), up.end());
    const auto cols = static_cast<std::int64_t>(gate.size());
    std::vector<float> out = poisoned(cols);
    Tensor out_view = matrix_view(out, 1, cols);
    ops::silu_mul(backend, matrix_view(gate_up, 1, 2 * cols), out_view);
    return out;
  }
};

// Every gate in [-80, 80] in fine steps: relative error of a few ulp, with no help from
// cancellation.
TEST_P(ActivationTest, equals_the_definition) {
  const auto backend = make_backend();
  for (int i = -80000; i <= 80000; i += 7) {
    const std::vector<float> gate{static_cast<float>(i) / 1000.0f};
    const std::vector<float> up{1.5f};
    const double want = gate[0] / (1.0 + std::exp(-static_cast<double>(gate[0]))) * up[0];
    const float got = silu(*backend, gate, up)[0];
    ASSERT_LE(std::fabs(got - want), tolerance(dtype()).elementwise * std::fabs(want)) << gate[0];
  }
}

TEST_P(ActivationTest, far_gates_saturate) {
  const auto backend = make_backend();
  const std::vector<float> gate{-1e4f, -200.0f, -89.0f, 0.0f, 89.0f, 200.0f, 1e4f, 3e38f};
  const auto out = silu(*backend, gate, std::vector<float>(gate.size(), 1.0f));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(out[i], 0.0, 1e-30);
  EXPECT_EQ(out[3], 0.0f);
  for (std::size_t i = 4; i < gate.size(); ++i) EXPECT_EQ(out[i], gate[i]);
}

TEST_P(ActivationTest, L1_a_nan_stays_where_it_is) {
  const auto backend = make_backend();
  std::vector<float> gate(37, 1.0f);
  gate[20] = std::numeric_limits<float>::quiet_NaN();
  const auto out = silu(*backend, gate, std::vector<float>(37, 1.0f));
  for (std::size_t i = 0; i < 37; ++i) EXPECT_EQ(std::isnan(out[i]), i == 20);
}

// Several rows, odd widths, more than one thread: each row uses its own gate and up.
TEST_P(ActivationTest, rows_do_not_mix) {
  for (const std::int64_t cols : {1, 7, 48, 1537}) {
    const std::int64_t rows = 40;
    std::vector<float> gate_up = random_floats(rows * 2 * cols, 1);
    std::vector<float> out = poisoned(rows * cols);
    Tensor out_view = matrix_view(out, rows, cols);
    ops::silu_mul(*make_backend(3), matrix_view(gate_up, rows, 2 * cols), out_view);
    const auto backend = make_backend(1);
    for (std::int64_t m = 0; m < rows; ++m) {
      const auto begin = gate_up.begin() + m * 2 * cols;
      EXPECT_TRUE(same_bits(silu(*backend, {begin, begin + cols}, {begin + cols, begin + 2 * cols}),
                            std::span(out).subspan(m * cols, cols)));
    }
  }
}

MOA_RT_FOR_EVERY_VARIANT(ActivationTest);

}  // namespace
}  // namespace moa_rt
