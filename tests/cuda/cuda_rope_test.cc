// Norm of heads, rotation and append in one operation, against their definitions in double.
#include <gtest/gtest.h>

#include "cache/kv_cache.h"
#include "support/ops_world.h"

namespace moa_rt::testing {
namespace {

class CudaRopeTest : public OpsTest {};

INSTANTIATE_TEST_SUITE_P(Dtypes, CudaRopeTest, ::testing::Values(DType::kBF16, DType::kF16),
                         dtype_of_case);

// Norm of heads, rotation, and the append of single rows; three rows at 5 and one at 250.
TEST_P(CudaRopeTest, rope_append_rotates_and_appends_single_rows) {
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
    std::vector<double> want(qkv.begin(), qkv.end());
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

}  // namespace
}  // namespace moa_rt::testing
