// Products of the CUDA backend, alone and with what is fused to them.
#include <gtest/gtest.h>

#include "support/ops_world.h"

namespace moa_rt::testing {
namespace {

class CudaMatmulTest : public OpsTest {};

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaMatmulTest, ::testing::Values(DType::kBF16, DType::kF16),
                         dtype_of_case);

struct Product {
  std::int64_t rows, cols, outputs;
};

std::string name(const Product& p) {
  return "M " + std::to_string(p.rows) + " K " + std::to_string(p.cols) + " N " +
         std::to_string(p.outputs);
}

struct Exact {
  std::vector<double> sums;  // (rows, outputs)
  double scale = 0.0;        // the largest sum of the terms' sizes
};

// x (rows, cols) times the transpose of w (outputs, cols).
Exact exact_product(const Product& p, const std::vector<float>& x, const std::vector<float>& w) {
  Exact exact;
  for (std::int64_t m = 0; m < p.rows; ++m) {
    for (std::int64_t n = 0; n < p.outputs; ++n) {
      double sum = 0.0, size = 0.0;
      for (std::int64_t k = 0; k < p.cols; ++k) {
        const double term = static_cast<double>(x[static_cast<std::size_t>(m * p.cols + k)]) *
                            w[static_cast<std::size_t>(n * p.cols + k)];
        sum += term;
        size += std::fabs(term);
      }
      exact.sums.push_back(sum);
      exact.scale = std::max(exact.scale, size);
    }
  }
  return exact;
}

TEST_P(CudaMatmulTest, matmul_with_bias_and_output) {
  const auto backend = make_backend(300, 14336);
  for (const Product p :
       {Product{1, 64, 64}, Product{2, 576, 100}, Product{3, 128, 8}, Product{5, 1536, 576},
        Product{8, 96, 320}, Product{9, 576, 961}, Product{17, 192, 49}, Product{64, 72, 72},
        Product{300, 576, 1152}, Product{4, 200, 33}, Product{1, 8, 5}, Product{3, 14336, 40},
        Product{4, 1032, 17}}) {
    const auto x = random_rounded(p.rows * p.cols, 6, dtype());
    const auto w = random_rounded(p.outputs * p.cols, 7, dtype());
    const auto bias = random_rounded(p.outputs, 8, DType::kF32);
    const auto addend = random_rounded(p.rows * p.outputs, 9, DType::kF32);
    const Exact plain = exact_product(p, x, w);
    const Matrix weight = matrix_on_device(*backend, w, p.outputs, p.cols, dtype());
    const Tensor bias_on_device = on_device(*backend, bias, {p.outputs});
    const Tensor in = on_device(*backend, x, {p.rows, p.cols});
    for (const bool with_bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        std::vector<double> want = plain.sums;
        for (std::size_t i = 0; i < want.size(); ++i) {
          if (with_bias) want[i] += bias[i % bias.size()];
          if (accumulate) want[i] += addend[i];
        }
        Tensor out = accumulate ? on_device(*backend, addend, {p.rows, p.outputs})
                                : poisoned_on_device(*backend, {p.rows, p.outputs});
        ops::matmul(*backend, in, weight, with_bias ? &bias_on_device : nullptr, accumulate, out);
        expect_close(to_host(*backend, out), want, tolerance(dtype()).sum, plain.scale, name(p));
      }
    }
  }
}

// Products of many tiles: blocks walk over several.
TEST_P(CudaMatmulTest, matmul_of_many_tiles) {
  const auto backend = make_backend(64, 4104);
  for (const Product p : {Product{1, 4104, 5000}, Product{2, 72, 6000}, Product{8, 1160, 5000},
                          Product{40, 1160, 4136}}) {
    const auto x = random_rounded(p.rows * p.cols, 21, dtype());
    const auto w = random_rounded(p.outputs * p.cols, 22, dtype());
    const Exact want = exact_product(p, x, w);
    const Matrix weight = matrix_on_device(*backend, w, p.outputs, p.cols, dtype());
    const Tensor in = on_device(*backend, x, {p.rows, p.cols});
    std::vector<float> first;
    for (int run = 0; run < 3; ++run) {
      Tensor out = poisoned_on_device(*backend, {p.rows, p.outputs});
      ops::matmul(*backend, in, weight, nullptr, false, out);
      const std::vector<float> got = to_host(*backend, out);
      if (run == 0) first = got;
      EXPECT_TRUE(same_bits(got, first)) << "run " << run;
    }
    expect_close(first, want.sums, tolerance(dtype()).sum, want.scale, name(p));
  }
}

// What is done in one kernel has the bits of its operations one after the other.
TEST_P(CudaMatmulTest, fused_operations_equal_their_parts) {
  struct Sizes {
    std::int64_t rows, width, inner;
  };
  for (const Sizes& s : {Sizes{1, 64, 40}, Sizes{1, 4096, 1000}, Sizes{3, 576, 1536},
                         Sizes{8, 1032, 72}, Sizes{8, 14336, 64}, Sizes{5, 104, 32},
                         Sizes{9, 576, 200}, Sizes{64, 128, 1000}, Sizes{100, 576, 96}}) {
    const auto backend = make_backend(s.rows, std::max(s.width, s.inner));
    const auto x = on_device(*backend, random_rounded(s.rows * s.width, 31, DType::kF32, 4.0f),
                             {s.rows, s.width});
    const auto norm = on_device(*backend, random_rounded(s.width, 32, DType::kF32), {s.width});
    const auto bias =
        on_device(*backend, random_rounded(2 * s.inner, 33, DType::kF32), {2 * s.inner});
    const Matrix gate_up =
        matrix_on_device(*backend, random_rounded(2 * s.inner * s.width, 34, dtype(), 0.1f),
                         2 * s.inner, s.width, dtype());
    const Matrix down = matrix_on_device(
        *backend, random_rounded(s.inner * s.width, 35, dtype(), 0.1f), s.width, s.inner, dtype());
    const auto poisoned = [&](std::int64_t cols) {
      return poisoned_on_device(*backend, {s.rows, cols});
    };
    const std::string what = "M " + std::to_string(s.rows) + " K " + std::to_string(s.width) +
                             " I " + std::to_string(s.inner);

    Tensor normed = poisoned(s.width), product = poisoned(2 * s.inner), mlp = poisoned(s.inner);
    ops::rms_norm(*backend, x, norm, 1e-5, normed);
    ops::matmul(*backend, normed, gate_up, &bias, false, product);
    Tensor scratch = poisoned(s.width), fused = poisoned(2 * s.inner);
    ops::norm_matmul(*backend, x, {&norm, 1e-5}, gate_up, &bias, scratch, fused);
    EXPECT_TRUE(same_bits(to_host(*backend, fused), to_host(*backend, product))) << what;

    ops::matmul(*backend, normed, gate_up, nullptr, false, product);
    ops::silu_mul(*backend, product, mlp);
    Tensor want = on_device(*backend, to_host(*backend, x), {s.rows, s.width});
    Tensor got = on_device(*backend, to_host(*backend, x), {s.rows, s.width});
    ops::matmul(*backend, mlp, down, nullptr, true, want);
    Tensor gate_up_rows = poisoned(2 * s.inner), gated = poisoned(s.inner);
    ops::mlp(*backend,
             {.norm = {&norm, 1e-5},
              .gate_up = &gate_up,
              .down = &down,
              .normed = &scratch,
              .gate_up_rows = &gate_up_rows,
              .gated = &gated},
             got);
    EXPECT_TRUE(same_bits(to_host(*backend, got), to_host(*backend, want))) << what;
  }
}

// Up to the number of rows that our own product takes.
TEST_P(CudaMatmulTest, a_row_is_bit_equal_in_small_batches) {
  const auto backend = make_backend(8, 1032);
  const std::int64_t cols = 1032, outputs = 77;
  const Matrix weight = matrix_on_device(*backend, random_rounded(outputs * cols, 12, dtype()),
                                         outputs, cols, dtype());
  const auto x = random_rounded(8 * cols, 13, DType::kF32);
  const auto product = [&](std::int64_t first, std::int64_t rows) {
    Tensor out = poisoned_on_device(*backend, {rows, outputs});
    const Tensor in = on_device(
        *backend, {x.begin() + first * cols, x.begin() + (first + rows) * cols}, {rows, cols});
    ops::matmul(*backend, in, weight, nullptr, false, out);
    return to_host(*backend, out);
  };
  const std::vector<float> together = product(0, 8);
  for (std::int64_t row = 0; row < 8; ++row) {
    EXPECT_TRUE(same_bits(product(row, 1), {together.begin() + row * outputs,
                                            together.begin() + (row + 1) * outputs}));
  }
}

}  // namespace
}  // namespace moa_rt::testing
