// The row-wise operations and matmul of the CUDA backend against their definitions in double.
#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "moa_rt/error.h"
#include "ops/ops.h"
#include "support/device_data.h"

namespace moa_rt::testing {
namespace {

class CudaOpsTest : public ::testing::TestWithParam<DType> {
 protected:
  static DType dtype() { return GetParam(); }
  static std::unique_ptr<Backend> make_backend(std::int64_t rows, std::int64_t cols) {
    auto backend = make_cuda_backend({DeviceType::kCuda, 0});
    backend->reserve({.attention = {.num_query_heads = 6, .num_kv_heads = 2, .head_dim = 64},
                      .max_rows = rows,
                      .max_sequences = 4,
                      .max_seq_len = 512,
                      .max_matrix_cols = cols,
                      .dtype = dtype()});
    return backend;
  }
};

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaOpsTest, ::testing::Values(DType::kBF16, DType::kF16),
                         [](const auto& value) { return std::string(dtype_name(value.param)); });

std::vector<double> widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

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

struct Product {
  std::int64_t rows, cols, outputs;
};

TEST_P(CudaOpsTest, matmul_with_bias_and_output) {
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
    std::vector<double> plain;
    double scale = 0.0;
    for (std::int64_t m = 0; m < p.rows; ++m) {
      for (std::int64_t n = 0; n < p.outputs; ++n) {
        double sum = 0.0, size = 0.0;
        for (std::int64_t k = 0; k < p.cols; ++k) {
          const double term = static_cast<double>(x[static_cast<std::size_t>(m * p.cols + k)]) *
                              w[static_cast<std::size_t>(n * p.cols + k)];
          sum += term;
          size += std::fabs(term);
        }
        plain.push_back(sum);
        scale = std::max(scale, size);
      }
    }
    const Matrix weight = matrix_on_device(*backend, w, p.outputs, p.cols, dtype());
    const Tensor bias_on_device = on_device(*backend, bias, {p.outputs});
    const Tensor in = on_device(*backend, x, {p.rows, p.cols});
    const std::string what = "M " + std::to_string(p.rows) + " K " + std::to_string(p.cols) +
                             " N " + std::to_string(p.outputs);
    for (const bool with_bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        std::vector<double> want = plain;
        for (std::size_t i = 0; i < want.size(); ++i) {
          if (with_bias) want[i] += bias[i % bias.size()];
          if (accumulate) want[i] += addend[i];
        }
        Tensor out = accumulate ? on_device(*backend, addend, {p.rows, p.outputs})
                                : poisoned_on_device(*backend, {p.rows, p.outputs});
        ops::matmul(*backend, in, weight, with_bias ? &bias_on_device : nullptr, accumulate, out);
        expect_close(to_host(*backend, out), want, tolerance(dtype()).sum, scale, what);
      }
    }
  }
}

// Products of many tiles: blocks walk over several.
TEST_P(CudaOpsTest, matmul_of_many_tiles) {
  const auto backend = make_backend(64, 4104);
  for (const Product p : {Product{1, 4104, 5000}, Product{2, 72, 6000}, Product{8, 1160, 5000},
                          Product{40, 1160, 4136}}) {
    const auto x = random_rounded(p.rows * p.cols, 21, dtype());
    const auto w = random_rounded(p.outputs * p.cols, 22, dtype());
    std::vector<double> want;
    double scale = 0.0;
    for (std::int64_t m = 0; m < p.rows; ++m) {
      for (std::int64_t n = 0; n < p.outputs; ++n) {
        double sum = 0.0, size = 0.0;
        for (std::int64_t k = 0; k < p.cols; ++k) {
          const double term = static_cast<double>(x[static_cast<std::size_t>(m * p.cols + k)]) *
                              w[static_cast<std::size_t>(n * p.cols + k)];
          sum += term;
          size += std::fabs(term);
        }
        want.push_back(sum);
        scale = std::max(scale, size);
      }
    }
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
    expect_close(first, want, tolerance(dtype()).sum, scale,
                 "M " + std::to_string(p.rows) + " K " + std::to_string(p.cols) + " N " +
                     std::to_string(p.outputs));
  }
}

// What is done in one kernel has the bits of its operations one after the other.
TEST_P(CudaOpsTest, fused_operations_equal_their_parts) {
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
TEST_P(CudaOpsTest, a_row_is_bit_equal_in_small_batches) {
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

// Norm of heads, rotation, and the append of single rows; three rows at 5 and one at 250.
TEST_P(CudaOpsTest, rope_append_rotates_and_appends_single_rows) {
  for (const std::int64_t dim : {64, 80, 96, 128}) {
    const auto backend = make_backend(16, 16);
    const AttentionShape shape{.num_query_heads = 6, .num_kv_heads = 2, .head_dim = dim};
    const std::int64_t width = 10 * dim, half = dim / 2;
    const std::vector<std::int64_t> positions = {5, 6, 7, 250};
    std::vector<float> cos, sin;
    for (std::int64_t p = 0; p < 300; ++p) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) *
                             std::pow(1e4, -static_cast<double>(i) / static_cast<double>(half));
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    const auto norm = random_rounded(dim, 10, DType::kF32);
    const auto qkv = random_rounded(4 * width, 11, DType::kF32);
    std::vector<double> want = widened(qkv);
    for (std::int64_t row = 0; row < 4; ++row) {
      for (std::int64_t h = 0; h < 8; ++h) {
        double* x = want.data() + row * width + h * dim;
        double squares = 0.0;
        for (std::int64_t d = 0; d < dim; ++d) squares += x[d] * x[d];
        const double root = std::sqrt(squares / static_cast<double>(dim) + 1e-6);
        for (std::int64_t d = 0; d < dim; ++d) x[d] *= norm[static_cast<std::size_t>(d)] / root;
        for (std::int64_t i = 0; i < half; ++i) {
          const auto at =
              static_cast<std::size_t>(positions[static_cast<std::size_t>(row)] * half + i);
          const double a = x[i], b = x[i + half];
          x[i] = a * cos[at] - b * sin[at];
          x[i + half] = b * cos[at] + a * sin[at];
        }
      }
    }
    const CacheLayout layout({{HeadSpan{2, 40}, HeadSpan{2, 40}}}, dim, dtype());
    KVCache short_cache(backend->allocator(), layout), long_cache(backend->allocator(), layout);
    for (const KVCache* cache : {&short_cache, &long_cache}) {
      ASSERT_EQ(
          cudaMemset(cache->segment(0, 0).keys, 0xff, static_cast<std::size_t>(cache->bytes())),
          cudaSuccess);
    }
    short_cache.advance(5);
    long_cache.advance(250);
    const RopeTable rope{on_device(*backend, cos, {300, half}),
                         on_device(*backend, sin, {300, half})};
    const Tensor weight = on_device(*backend, norm, {dim});
    const std::vector<SequenceSlice> slices{
        {.cache = &short_cache, .row = 0, .count = 3, .position = 5},
        {.cache = &long_cache, .row = 3, .count = 1, .position = 250}};
    Tensor x = on_device(*backend, qkv, {4, width});
    ops::rope_append(*backend,
                     {.shape = shape,
                      .layer = 0,
                      .slices = slices,
                      .rope = &rope,
                      .query_norm = &weight,
                      .key_norm = &weight,
                      .norm_eps = 1e-6},
                     x);
    const std::vector<float> got = to_host(*backend, x);
    double scale = 0.0;
    for (const double value : want) scale = std::max(scale, std::fabs(value));
    expect_close(got, want, tolerance(dtype()).elementwise, scale, "dim " + std::to_string(dim));

    const auto read = [&](const KVCache& cache) {
      std::vector<std::uint16_t> bits(static_cast<std::size_t>(cache.bytes() / 2));
      EXPECT_EQ(cudaMemcpy(bits.data(), cache.segment(0, 0).keys,
                           static_cast<std::size_t>(cache.bytes()), cudaMemcpyDeviceToHost),
                cudaSuccess);
      return bits;
    };
    const auto untouched = read(short_cache);
    EXPECT_EQ(std::count(untouched.begin(), untouched.end(), 0xffff),
              static_cast<std::int64_t>(untouched.size()));
    const auto written = read(long_cache);
    const std::int64_t slot = 2 + (250 - 2) % 40;
    for (std::int64_t i = 0; i < 2 * 2 * 42 * dim; ++i) {
      const std::int64_t head = i / (2 * 42 * dim), part = i / (42 * dim) % 2;  // keys, values
      const bool appended = i / dim % 42 == slot;
      const float value =
          got[static_cast<std::size_t>(3 * width + (6 + 2 * part + head) * dim + i % dim)];
      ASSERT_EQ(written[static_cast<std::size_t>(i)],
                appended ? bits_of(rounded(value, dtype()), dtype()) : 0xffff)
          << "element " << i;
    }
  }
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
