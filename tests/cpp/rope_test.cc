#include <gtest/gtest.h>

#include <cmath>

#include "cache/kv_cache.h"
#include "ops/ops.h"
#include "support/backends.h"
#include "support/tolerance.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kPositions = 300;

// Two sequences in one step: three rows at 5, one row at 250.
struct Step {
  AttentionShape shape;
  std::vector<float> cos, sin, query_norm, key_norm, qkv;
  std::unique_ptr<KVCache> long_cache, short_cache;

  Step(Backend& backend, const AttentionShape& attention, DType dtype) : shape(attention) {
    const std::int64_t half = shape.head_dim / 2;
    for (std::int64_t p = 0; p < kPositions; ++p) {
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) *
                             std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    query_norm = random_floats(shape.head_dim, 1);
    key_norm = random_floats(shape.head_dim, 2);
    qkv = random_floats(4 * width(), 3);
    const std::vector<HeadSpan> spans(static_cast<std::size_t>(shape.num_kv_heads), {2, 40});
    long_cache =
        std::make_unique<KVCache>(backend.allocator(), CacheLayout({spans}, shape.head_dim, dtype));
    short_cache =
        std::make_unique<KVCache>(backend.allocator(), CacheLayout({spans}, shape.head_dim, dtype));
    long_cache->advance(250);
    short_cache->advance(5);
    std::memset(long_cache->segment(0, 0).keys, 0xff,
                static_cast<std::size_t>(long_cache->bytes()));
    std::memset(short_cache->segment(0, 0).keys, 0xff,
                static_cast<std::size_t>(short_cache->bytes()));
  }
  std::int64_t width() const {
    return (shape.num_query_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  }
  void run(Backend& backend, bool with_norm) {
    const std::int64_t half = shape.head_dim / 2;
    const RopeTable rope{matrix_view(cos, kPositions, half), matrix_view(sin, kPositions, half)};
    const std::vector<SequenceSlice> slices{
        {.cache = short_cache.get(), .row = 0, .count = 3, .position = 5},
        {.cache = long_cache.get(), .row = 3, .count = 1, .position = 250}};
    const Tensor query_weight = vector_view(query_norm), key_weight = vector_view(key_norm);
    Tensor view = matrix_view(qkv, 4, width());
    ops::rope_append(backend,
                     {.shape = shape,
                      .layer = 0,
                      .slices = slices,
                      .rope = &rope,
                      .query_norm = with_norm ? &query_weight : nullptr,
                      .key_norm = with_norm ? &key_weight : nullptr,
                      .norm_eps = 1e-6},
                     view);
  }
};

class RopeTest : public BackendTest {
 protected:
  static std::vector<AttentionShape> shapes() {
    return {{.num_query_heads = 6, .num_kv_heads = 2, .head_dim = 64},
            {.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 8},
            {.num_query_heads = 4, .num_kv_heads = 4, .head_dim = 80},
            {.num_query_heads = 3, .num_kv_heads = 1, .head_dim = 24}};
  }
  // By definition, in double: norm of the head if asked, then the rotate-half rotation; v
  // untouched.
  static std::vector<double> oracle(const Step& step, bool with_norm) {
    std::vector<double> want(step.qkv.begin(), step.qkv.end());
    const auto dim = static_cast<std::size_t>(step.shape.head_dim);
    const std::int64_t rotated = step.shape.num_query_heads + step.shape.num_kv_heads;
    const std::int64_t positions[] = {5, 6, 7, 250};
    for (std::int64_t row = 0; row < 4; ++row) {
      for (std::int64_t h = 0; h < rotated; ++h) {
        double* x = want.data() + row * step.width() + h * step.shape.head_dim;
        if (with_norm) {
          const auto& weight = h < step.shape.num_query_heads ? step.query_norm : step.key_norm;
          double sum = 0.0;
          for (std::size_t d = 0; d < dim; ++d) sum += x[d] * x[d];
          const double root = std::sqrt(sum / static_cast<double>(dim) + 1e-6);
          for (std::size_t d = 0; d < dim; ++d) x[d] = x[d] / root * weight[d];
        }
        for (std::size_t i = 0; i < dim / 2; ++i) {
          const auto at = static_cast<std::size_t>(positions[row]) * (dim / 2) + i;
          const double a = x[i], b = x[i + dim / 2], c = step.cos[at], s = step.sin[at];
          x[i] = a * c - b * s;
          x[i + dim / 2] = b * c + a * s;
        }
      }
    }
    return want;
  }
};

TEST_P(RopeTest, equals_the_definition) {
  const auto backend = make_backend();
  for (const AttentionShape& shape : shapes()) {
    for (const bool with_norm : {false, true}) {
      Step step(*backend, shape, dtype());
      const auto want = oracle(step, with_norm);
      double scale = 0.0;
      for (const double x : want) scale = std::max(scale, std::fabs(x));
      step.run(*backend, with_norm);
      expect_close(step.qkv, want, tolerance(dtype()).elementwise, scale,
                   "head_dim " + std::to_string(shape.head_dim));
    }
  }
}

// Decode appends before attention; a longer slice leaves its cache alone.
TEST_P(RopeTest, appends_slices_of_one_row_only) {
  const auto backend = make_backend();
  const AttentionShape shape = shapes()[0];
  Step step(*backend, shape, dtype());
  step.run(*backend, false);
  const auto read = [&](const std::byte* base, std::int64_t index) {
    float x = 0.0f;
    if (dtype() == DType::kF32) {
      std::memcpy(&x, base + index * 4, 4);
    } else {
      std::uint16_t bits = 0;
      std::memcpy(&bits, base + index * 2, 2);
      x = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    }
    return x;
  };
  const std::int64_t slot = 2 + (250 - 2) % 40;
  for (std::int64_t head = 0; head < 2; ++head) {
    const HeadSegment written = step.long_cache->segment(0, head);
    const HeadSegment untouched = step.short_cache->segment(0, head);
    const float* row = step.qkv.data() + 3 * step.width();
    for (std::int64_t i = 0; i < 42 * 64; ++i) {
      EXPECT_TRUE(std::isnan(read(untouched.keys, i)) && std::isnan(read(untouched.values, i)));
      if (i / 64 != slot) {
        EXPECT_TRUE(std::isnan(read(written.keys, i)) && std::isnan(read(written.values, i)));
        continue;
      }
      EXPECT_EQ(read(written.keys, i), rounded(row[(6 + head) * 64 + i % 64]));
      EXPECT_EQ(read(written.values, i), rounded(row[(8 + head) * 64 + i % 64]));
    }
  }
}

MOA_RT_FOR_EVERY_VARIANT(RopeTest);

}  // namespace
}  // namespace moa_rt
