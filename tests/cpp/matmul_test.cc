#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "ops/ops.h"
#include "support/backends.h"
#include "support/tolerance.h"

namespace moa_rt {
namespace {

struct Problem {
  std::int64_t rows, cols, outputs;  // M, K, N
};

class MatmulTest : public BackendTest {
 protected:
  static BackendLimits limits(std::int64_t rows, std::int64_t cols) {
    return {.attention = {.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 16},
            .max_rows = rows,
            .max_sequences = 1,
            .max_seq_len = 16,
            .max_matrix_cols = cols,
            .dtype = dtype()};
  }
  static std::vector<float> multiply(Backend& backend, std::vector<float> x, const Matrix& weight,
                                     std::vector<float>* bias = nullptr,
                                     const std::vector<float>* addend = nullptr) {
    const auto rows = static_cast<std::int64_t>(x.size()) / weight.cols;
    std::vector<float> out = addend != nullptr ? *addend : poisoned(rows * weight.rows);
    Tensor out_view = matrix_view(out, rows, weight.rows);
    const Tensor bias_view = bias != nullptr ? vector_view(*bias) : Tensor();
    ops::matmul(backend, matrix_view(x, rows, weight.cols), weight,
                bias != nullptr ? &bias_view : nullptr, addend != nullptr, out_view);
    return out;
  }
  // By definition, in double; the second result is the largest sum of absolute products.
  static std::pair<std::vector<double>, double> oracle(const std::vector<float>& x,
                                                       const std::vector<float>& w,
                                                       const Problem& p) {
    std::vector<double> out;
    double scale = 0.0;
    for (std::int64_t m = 0; m < p.rows; ++m) {
      for (std::int64_t n = 0; n < p.outputs; ++n) {
        double sum = 0.0, size = 0.0;
        for (std::int64_t k = 0; k < p.cols; ++k) {
          const double term =
              static_cast<double>(rounded(x[static_cast<std::size_t>(m * p.cols + k)])) *
              rounded(w[static_cast<std::size_t>(n * p.cols + k)]);
          sum += term;
          size += std::abs(term);
        }
        out.push_back(sum);
        scale = std::max(scale, size);
      }
    }
    return {out, scale};
  }
};

TEST_P(MatmulTest, equals_the_definition_for_odd_shapes) {
  const Problem problems[] = {{1, 1, 1},    {1, 7, 5},      {2, 33, 17},  {3, 64, 16},
                              {5, 100, 31}, {7, 255, 130},  {8, 65, 48},  {13, 576, 100},
                              {64, 40, 33}, {121, 129, 70}, {250, 32, 9}, {9, 1537, 20}};
  const auto backend = make_backend();
  for (const Problem& p : problems) {
    backend->reserve(limits(p.rows, p.cols));
    const auto x = random_floats(p.rows * p.cols, 1);
    const auto w = random_floats(p.outputs * p.cols, 2);
    const Matrix weight = load_matrix(*backend, w, p.outputs, p.cols, dtype());
    const auto [want, scale] = oracle(x, w, p);
    expect_close(multiply(*backend, x, weight), want, tolerance(dtype()).sum, scale,
                 "M " + std::to_string(p.rows) + " K " + std::to_string(p.cols) + " N " +
                     std::to_string(p.outputs));
  }
}

TEST_P(MatmulTest, adds_bias_and_output) {
  const Problem p{11, 48, 37};
  const auto backend = make_backend();
  backend->reserve(limits(p.rows, p.cols));
  const auto x = random_floats(p.rows * p.cols, 1);
  const auto w = random_floats(p.outputs * p.cols, 2);
  auto bias = random_floats(p.outputs, 3);
  const auto addend = random_floats(p.rows * p.outputs, 4);
  const Matrix weight = load_matrix(*backend, w, p.outputs, p.cols, dtype());
  auto [want, scale] = oracle(x, w, p);
  for (std::size_t i = 0; i < want.size(); ++i) {
    want[i] += static_cast<double>(bias[i % static_cast<std::size_t>(p.outputs)]) + addend[i];
  }
  expect_close(multiply(*backend, x, weight, &bias, &addend), want, tolerance(dtype()).sum, scale,
               "bias and accumulate");
}

// A row alone, and the same row anywhere in batches that take every path of the kernels.
TEST_P(MatmulTest, a_row_is_bit_equal_in_every_batch) {
  const std::int64_t cols = 803, outputs = 150;
  const auto backend = make_backend();
  backend->reserve(limits(400, cols));
  const Matrix weight =
      load_matrix(*backend, random_floats(outputs * cols, 2), outputs, cols, dtype());
  const auto x = random_floats(400 * cols, 1);
  std::vector<std::vector<float>> alone;
  for (std::int64_t m = 0; m < 400; ++m) {
    alone.push_back(multiply(*backend, {x.begin() + m * cols, x.begin() + (m + 1) * cols}, weight));
  }
  for (const std::int64_t rows :
       {2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 23, 24, 25, 120, 121, 130, 400}) {
    const auto together = multiply(*backend, {x.begin(), x.begin() + rows * cols}, weight);
    for (std::int64_t m = 0; m < rows; ++m) {
      const std::span<const float> row(together.data() + m * outputs, outputs);
      ASSERT_TRUE(same_bits(row, alone[static_cast<std::size_t>(m)])) << rows << " rows, row " << m;
    }
  }
}

TEST_P(MatmulTest, threads_do_not_change_a_bit) {
  const std::int64_t cols = 130, outputs = 1000;
  const auto w = random_floats(outputs * cols, 2);
  for (const std::int64_t rows : {1, 5, 150}) {
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      const auto backend = make_backend(threads);
      backend->reserve(limits(rows, cols));
      const Matrix weight = load_matrix(*backend, w, outputs, cols, dtype());
      const auto out = multiply(*backend, random_floats(rows * cols, 1), weight);
      if (first.empty()) first = out;
      EXPECT_TRUE(same_bits(out, first)) << threads << " threads, " << rows << " rows";
    }
  }
}

// A NaN in one row, or in the unused part of the last panel's outputs, reaches nobody else.
TEST_P(MatmulTest, L1_a_nan_stays_in_its_row) {
  const std::int64_t cols = 65, outputs = 20, rows = 14;
  const auto backend = make_backend();
  backend->reserve(limits(rows, cols));
  const Matrix weight =
      load_matrix(*backend, random_floats(outputs * cols, 2), outputs, cols, dtype());
  auto x = random_floats(rows * cols, 1);
  const auto clean = multiply(*backend, x, weight);
  x[5 * cols + 64] = std::numeric_limits<float>::quiet_NaN();
  const auto dirty = multiply(*backend, x, weight);
  for (std::int64_t i = 0; i < rows * outputs; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (i / outputs == 5) {
      EXPECT_TRUE(std::isnan(dirty[at]));
    } else {
      EXPECT_EQ(dirty[at], clean[at]);
    }
  }
}

TEST_P(MatmulTest, matrix_bytes_is_what_a_matrix_takes) {
  const auto backend = make_backend();
  for (const Problem& p : {Problem{0, 1, 1}, Problem{0, 33, 17}, Problem{0, 576, 960}}) {
    const Matrix weight =
        load_matrix(*backend, random_floats(p.outputs * p.cols, 2), p.outputs, p.cols, dtype());
    EXPECT_EQ(backend->matrix_bytes(p.outputs, p.cols, dtype()), weight.storage.bytes());
    const std::int64_t even = dtype() == DType::kF32 ? p.cols : (p.cols + 1) / 2 * 2;
    EXPECT_EQ(weight.storage.bytes(), (p.outputs + 15) / 16 * 16 * even * size_of(dtype()));
  }
}

TEST_P(MatmulTest, reserve_takes_what_was_predicted_and_ops_take_nothing) {
  const auto backend = make_backend();
  const std::int64_t before = backend->allocator().live_bytes();
  backend->reserve(limits(64, 96));
  EXPECT_EQ(backend->allocator().live_bytes() - before, backend->workspace_bytes(limits(64, 96)));
  const Matrix weight = load_matrix(*backend, random_floats(50 * 96, 2), 50, 96, dtype());
  const std::int64_t calls = backend->allocator().calls();
  multiply(*backend, random_floats(64 * 96, 1), weight);
  multiply(*backend, random_floats(96, 1), weight);
  EXPECT_EQ(backend->allocator().calls(), calls);
}

MOA_RT_FOR_EVERY_VARIANT(MatmulTest);

}  // namespace
}  // namespace moa_rt
