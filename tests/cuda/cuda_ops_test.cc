// The row-wise operations of the CUDA backend against their definitions in double.
#include <gtest/gtest.h>

#include "moa_rt/error.h"
#include "support/ops_world.h"

namespace moa_rt::testing {
namespace {

class CudaOpsTest : public OpsTest {};

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaOpsTest, ::testing::Values(DType::kBF16, DType::kF16),
                         dtype_of_case);

TEST_P(CudaOpsTest, embed_copies_rows) {
  const auto backend = make_backend(300, 16);
  const std::int64_t vocab = 50, width = 133;
  const auto table = random_rounded(vocab * width, 1, dtype());
  const Matrix matrix = matrix_on_device(*backend, table, vocab, width, dtype());
  std::vector<std::int32_t> tokens;
  std::vector<float> want;
  for (int i = 0; i < 300; ++i) {
    tokens.push_back((i * 7 + i / 50) % 50);
    want.insert(want.end(), table.begin() + tokens.back() * width,
                table.begin() + (tokens.back() + 1) * width);
  }
  Tensor out = poisoned_on_device(*backend, {300, width});
  ops::embed(*backend, matrix, tokens, out);
  EXPECT_TRUE(same_bits(to_host(*backend, out), want));
}

TEST_P(CudaOpsTest, rms_norm_also_in_place) {
  const auto backend = make_backend(40, 16);
  for (const std::int64_t width : {1, 31, 64, 255, 257, 4096, 5000}) {
    const std::int64_t rows = 7;
    const auto x = random_rounded(rows * width, 2, DType::kF32);
    const auto weight = random_rounded(width, 3, DType::kF32);
    std::vector<double> want;
    for (std::int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (std::int64_t i = 0; i < width; ++i) {
        squares += std::pow(static_cast<double>(x[static_cast<std::size_t>(r * width + i)]), 2);
      }
      const double root = std::sqrt(squares / static_cast<double>(width) + 1e-5);
      for (std::int64_t i = 0; i < width; ++i) {
        want.push_back(x[static_cast<std::size_t>(r * width + i)] / root *
                       weight[static_cast<std::size_t>(i)]);
      }
    }
    double scale = 0.0;
    for (const double value : want) scale = std::max(scale, std::fabs(value));
    Tensor in = on_device(*backend, x, {rows, width});
    const Tensor w = on_device(*backend, weight, {width});
    Tensor out = poisoned_on_device(*backend, {rows, width});
    ops::rms_norm(*backend, in, w, 1e-5, out);
    expect_close(to_host(*backend, out), want, tolerance(dtype()).elementwise, scale, "rms_norm");
    ops::rms_norm(*backend, in, w, 1e-5, in);
    EXPECT_TRUE(same_bits(to_host(*backend, in), to_host(*backend, out)));
  }
}

TEST_P(CudaOpsTest, silu_mul_equals_the_definition) {
  const auto backend = make_backend(40, 16);
  const std::int64_t rows = 9, width = 301;
  auto x = random_rounded(rows * 2 * width, 4, DType::kF32, 3.0f);
  x[0] = 90.0f;
  x[1] = -90.0f;
  std::vector<double> want;
  double scale = 0.0;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < width; ++i) {
      const double gate = x[static_cast<std::size_t>(r * 2 * width + i)];
      want.push_back(gate / (1.0 + std::exp(-gate)) *
                     x[static_cast<std::size_t>(r * 2 * width + width + i)]);
      scale = std::max(scale, std::fabs(want.back()));
    }
  }
  const Tensor in = on_device(*backend, x, {rows, 2 * width});
  Tensor out = poisoned_on_device(*backend, {rows, width});
  ops::silu_mul(*backend, in, out);
  expect_close(to_host(*backend, out), want, tolerance(dtype()).elementwise, scale, "silu_mul");
}

TEST_P(CudaOpsTest, gather_rows_copies) {
  const auto backend = make_backend(40, 16);
  const auto x = random_rounded(20 * 77, 5, DType::kF32);
  const std::vector<std::int64_t> index = {19, 0, 3, 3, 7};
  std::vector<float> want;
  for (const std::int64_t row : index) {
    want.insert(want.end(), x.begin() + row * 77, x.begin() + (row + 1) * 77);
  }
  Tensor out = poisoned_on_device(*backend, {5, 77});
  ops::gather_rows(*backend, on_device(*backend, x, {20, 77}), index, out);
  EXPECT_TRUE(same_bits(to_host(*backend, out), want));
}

TEST_P(CudaOpsTest, token_logprobs_equal_the_definition_and_the_cpu) {
  const auto backend = make_backend(40, 16);
  const auto cpu = make_cpu_backend(1, "portable");
  for (const std::int64_t vocab : {1, 31, 1024, 1025, 8192, 8193, 49152, 151936}) {
    for (const float scale : {0.01f, 3.0f, 30.0f}) {
      const std::int64_t rows = 5;
      auto logits = random_rounded(rows * vocab, 21, DType::kF32, scale);
      if (vocab > 1) logits[0] = -std::numeric_limits<float>::infinity();
      std::vector<std::int32_t> tokens;
      std::vector<double> want;
      double size = 1.0;
      for (std::int64_t r = 0; r < rows; ++r) {
        tokens.push_back(static_cast<std::int32_t>((vocab - 1) * (4 - r) / 4));
        const float* row = logits.data() + r * vocab;
        double sum = 0.0;
        for (std::int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(row[i]));
        want.push_back(row[tokens.back()] - std::log(sum));
        size = std::max(size, std::fabs(want.back()));
      }
      const Tensor on_gpu = on_device(*backend, logits, {rows, vocab});
      std::vector<RowLogprob> got(static_cast<std::size_t>(rows)), alone(1);
      std::vector<RowLogprob> host(got.size());
      ops::token_logprobs(*backend, on_gpu, tokens, got);
      ops::token_logprobs(*cpu, Tensor(logits.data(), DType::kF32, {rows, vocab}), tokens, host);
      std::vector<float> values;
      for (std::size_t r = 0; r < got.size(); ++r) {
        EXPECT_EQ(got[r].fault, LogitFault::kNone);
        values.push_back(got[r].logprob);
        EXPECT_NEAR(got[r].logprob, host[r].logprob, tolerance(dtype()).sum * size);
        ops::token_logprobs(*backend, on_gpu.rows(static_cast<std::int64_t>(r), 1),
                            std::span(tokens).subspan(r, 1), alone);
        EXPECT_EQ(alone[0].logprob, got[r].logprob);  // bit-equal in every batch
      }
      expect_close(values, want, tolerance(dtype()).sum, size, "vocab " + std::to_string(vocab));
    }
  }
}

TEST_P(CudaOpsTest, L1_L2_token_logprobs_names_the_first_fault) {
  const auto backend = make_backend(40, 16);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::int64_t vocab = 20000;
  const auto at = [&](std::int64_t row, std::int64_t token) {
    return static_cast<std::size_t>(row * vocab + token);
  };
  auto logits = random_rounded(5 * vocab, 22, DType::kF32);
  logits[at(0, 19999)] = kNan;
  logits[at(1, 7)] = kInf;
  logits[at(2, 4097)] = kInf;
  logits[at(2, 9000)] = kNan;
  std::fill_n(logits.begin() + 3 * vocab, vocab, -kInf);
  logits[at(4, 3)] = -kInf;
  std::vector<RowLogprob> got(5);
  ops::token_logprobs(*backend, on_device(*backend, logits, {5, vocab}),
                      std::vector<std::int32_t>{0, 1, 2, 3, 3}, got);
  const LogitFault faults[] = {LogitFault::kNotANumber, LogitFault::kInfinite,
                               LogitFault::kInfinite, LogitFault::kNothingLeft, LogitFault::kNone};
  const std::int32_t places[] = {19999, 7, 4097, 0, 0};
  for (std::size_t r = 0; r < 5; ++r) {
    EXPECT_EQ(got[r].fault, faults[r]) << r;
    EXPECT_EQ(got[r].faulty, places[r]) << r;
  }
  EXPECT_EQ(got[4].logprob, -kInf);
}

TEST_P(CudaOpsTest, reserve_takes_what_was_predicted) {
  const auto backend = make_cuda_backend({DeviceType::kCuda, 0});
  const BackendLimits limits{
      .attention = {.num_query_heads = 32, .num_kv_heads = 8, .head_dim = 128},
      .max_rows = 512,
      .max_sequences = 64,
      .max_seq_len = 8192,
      .max_matrix_cols = 4096,
      .dtype = dtype(),
      .num_layers = 32};
  backend->reserve(limits);
  EXPECT_EQ(backend->allocator().live_bytes(), backend->workspace_bytes(limits));
}

TEST(CudaDeviceTest, G14_a_device_that_is_not_there) {
  EXPECT_THROW((void)make_cuda_backend({DeviceType::kCuda, 99}), DeviceError);
}

// I2: refused with the bytes, and the device works on.
TEST(CudaDeviceTest, I2_too_large_an_allocation) {
  const auto backend = make_cuda_backend({DeviceType::kCuda, 0});
  const std::int64_t all = backend->free_bytes();
  EXPECT_THROW((void)Storage(backend->allocator(), 2 * all), ResourceError);
  const Tensor small = on_device(*backend, {1.0f, 2.0f}, {2});
  EXPECT_EQ(to_host(*backend, small)[1], 2.0f);
  EXPECT_EQ(backend->allocator().live_bytes(), 8);
}

}  // namespace
}  // namespace moa_rt::testing
