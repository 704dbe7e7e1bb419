// The layout of a sequence's caches, against sums written out.
#include "plan/cache_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "moa_rt/error.h"

namespace {

using moa_rt::CacheLayout;
using moa_rt::DType;
using moa_rt::HeadSpan;
using Spans = std::vector<std::vector<HeadSpan>>;

TEST(CacheLayout, segments_follow_each_other_without_gaps) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    const std::size_t layers = 1 + random() % 5;
    const std::size_t heads = 1 + random() % 4;
    Spans spans(layers, std::vector<HeadSpan>(heads));
    for (auto& layer : spans) {
      for (HeadSpan& head : layer) {
        head = {static_cast<std::int64_t>(random() % 65),
                1 + static_cast<std::int64_t>(random() % 500)};
      }
    }
    const std::int64_t head_dim = 1 + static_cast<std::int64_t>(random() % 128);
    const DType dtype = random() % 2 == 0 ? DType::kF32 : DType::kBF16;
    const std::int64_t row = head_dim * (dtype == DType::kF32 ? 4 : 2);

    const CacheLayout layout(spans, head_dim, dtype);
    std::int64_t offset = 0;
    std::int64_t smallest = INT64_MAX;
    for (std::size_t l = 0; l < layers; ++l) {
      const std::int64_t layer_begin = offset;
      const auto layer = static_cast<std::int64_t>(l);
      for (std::size_t h = 0; h < heads; ++h) {
        const auto head = static_cast<std::int64_t>(h);
        const std::int64_t tokens = spans[l][h].sink + spans[l][h].window;
        smallest = std::min(smallest, tokens);
        ASSERT_EQ(layout.key_offset(layer, head), offset);
        ASSERT_EQ(layout.value_offset(layer, head), offset + tokens * row);
        ASSERT_EQ(layout.head_span(layer, head), spans[l][h]);
        offset += 2 * tokens * row;
      }
      ASSERT_EQ(layout.layer_bytes(layer), offset - layer_begin);
    }
    ASSERT_EQ(layout.total_bytes(), offset);
    ASSERT_EQ(layout.min_span(), smallest);
  }
}

TEST(CacheLayout, refuses_bad_shapes) {
  EXPECT_THROW(CacheLayout({}, 64, DType::kF32), moa_rt::ArgumentError);
  EXPECT_THROW(CacheLayout({{}}, 64, DType::kF32), moa_rt::ArgumentError);
  EXPECT_THROW(CacheLayout({{{64, 64}}}, 0, DType::kF32), moa_rt::ArgumentError);
  EXPECT_THROW(CacheLayout({{{64, 0}}}, 64, DType::kF32), moa_rt::ArgumentError);
  EXPECT_THROW(CacheLayout({{{-1, 64}}}, 64, DType::kF32), moa_rt::ArgumentError);
  try {
    CacheLayout({{{64, 64}, {64, 64}}, {{64, 64}}}, 64, DType::kF32);
    FAIL();
  } catch (const moa_rt::ArgumentError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("layer 1: KV heads: got 1, want 2"));
  }
}

// Offsets beyond 2^31 elements and 2^32 bytes a layer, none of it allocated.
TEST(CacheLayout, H11_offsets_have_64_bits) {
  const std::int64_t span = std::int64_t{3} << 31;
  const CacheLayout layout({{{64, span - 64}, {0, 1}}, {{64, span - 64}, {64, span}}}, 128,
                           DType::kBF16);
  EXPECT_EQ(layout.value_offset(0, 0), span * 256);
  EXPECT_EQ(layout.key_offset(0, 1), span * 512);
  EXPECT_EQ(layout.value_offset(0, 1), span * 512 + 256);
  EXPECT_EQ(layout.key_offset(1, 0), span * 512 + 512);
  EXPECT_EQ(layout.value_offset(1, 1), span * 1024 + 512 + (span + 64) * 256);
  EXPECT_EQ(layout.layer_bytes(1), (2 * span + 64) * 512);
  EXPECT_EQ(layout.total_bytes(), span * 1536 + 512 + 64 * 512);
}

TEST(CacheLayout, H11_more_than_63_bits_is_refused) {
  const std::int64_t huge = INT64_MAX / 2;
  EXPECT_THROW(CacheLayout({{{0, huge}}}, 128, DType::kF32), moa_rt::ResourceError);
  EXPECT_THROW(CacheLayout({{{INT64_MAX, INT64_MAX}}}, 1, DType::kBF16), moa_rt::ResourceError);
  EXPECT_THROW(CacheLayout({{{0, 1}}}, INT64_MAX, DType::kF32), moa_rt::ResourceError);
  // Each head fits, their sum does not.
  const std::int64_t half = (std::int64_t{1} << 60) - 1;
  EXPECT_NO_THROW(CacheLayout({{{0, half}}}, 1, DType::kF32));
  EXPECT_THROW(CacheLayout({{{0, half}, {0, half}}}, 1, DType::kF32), moa_rt::ResourceError);
}

}  // namespace
