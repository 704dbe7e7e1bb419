// Decode and prefill attention of the CUDA backend against the definition, at every edge of a tile,
// a chunk, a schedule and a ring.
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "support/cuda_world.h"

namespace moa_rt::testing {
namespace {

using Work = std::vector<std::pair<CudaSequence*, std::int64_t>>;

// dtype, head_dim, query heads of a KV head
class CudaAttentionTest
    : public ::testing::TestWithParam<std::tuple<DType, std::int64_t, std::int64_t>> {
 protected:
  static DType dtype() { return std::get<0>(GetParam()); }
  static AttentionShape shape(std::int64_t kv_heads) {
    return {.num_query_heads = kv_heads * std::get<2>(GetParam()),
            .num_kv_heads = kv_heads,
            .head_dim = std::get<1>(GetParam())};
  }
};

std::string param_name(const ::testing::TestParamInfo<CudaAttentionTest::ParamType>& info) {
  return std::string(dtype_name(std::get<0>(info.param))) + "_d" +
         std::to_string(std::get<1>(info.param)) + "_g" + std::to_string(std::get<2>(info.param));
}

INSTANTIATE_TEST_SUITE_P(All, CudaAttentionTest,
                         ::testing::Combine(::testing::Values(DType::kBF16, DType::kF16),
                                            ::testing::Values(64, 80, 96, 128),
                                            ::testing::Values(1, 2, 3, 4, 7, 8, 12)),
                         param_name);

// Narrow, wide, dense, a window of one, no sink.
const std::vector<HeadSpan> kSpans = {{4, 60}, {64, 192}, {64, 4096}, {63, 1}, {0, 33}};

TEST_P(CudaAttentionTest, prompts_of_every_edge_then_decode) {
  CudaWorld world(shape(5), dtype());
  for (const std::int64_t length : {1,   2,   15,  16,  17,  31,  33,  63,  64,  65,  100, 127,
                                    128, 129, 191, 192, 193, 253, 254, 255, 256, 257, 513}) {
    CudaSequence s = world.sequence(kSpans, length + 3, static_cast<std::uint32_t>(length));
    world.step({{&s, length}});
    world.expect_defined(s, length, length == 1, "prompt");
    for (int i = 0; i < 3; ++i) {
      world.step({{&s, 1}});
      world.expect_defined(s, 1, true, "decode");
    }
    if (HasFatalFailure()) return;
  }
}

TEST_P(CudaAttentionTest, appended_turns_over_wrapped_rings) {
  CudaWorld world(shape(5), dtype());
  CudaSequence s = world.sequence(kSpans, 2700, 7);
  for (const std::int64_t count : {700, 1, 64, 2, 1, 130, 500, 65, 1, 1, 600, 495, 1, 1, 128, 1}) {
    world.step({{&s, count}});
    world.expect_defined(s, std::min<std::int64_t>(count, 160), count == 1,
                         "turn of " + std::to_string(count));
    if (HasFatalFailure()) return;
  }
}

// Chunks of the decode schedule: one, two, many; heads of one sequence cut differently.
TEST_P(CudaAttentionTest, decode_over_long_rings) {
  CudaWorld world(shape(3), dtype());
  const std::vector<HeadSpan> spans = {{64, 8000}, {64, 1000}, {64, 2000}};
  CudaSequence s = world.sequence(spans, 6200, 11);
  for (const std::int64_t count : {1023, 1, 1, 1022, 1, 1, 2000, 1, 2043, 1, 1}) {
    world.step({{&s, count}});
    if (count == 1) world.expect_defined(s, 1, true, "decode");
    if (HasFatalFailure()) return;
  }
}

// Large scores: one key takes all the weight, and the maximum moves from tile to tile.
TEST_P(CudaAttentionTest, sharp_distributions) {
  CudaWorld world(shape(2), dtype());
  CudaSequence s = world.sequence({{64, 500}, {64, 64}}, 404, 13, 6.0f);
  world.step({{&s, 401}});
  world.expect_defined(s, 401, false, "sharp prompt");
  for (int i = 0; i < 3; ++i) world.step({{&s, 1}});
  world.expect_defined(s, 3, true, "sharp decode");
}

TEST_P(CudaAttentionTest, a_sequence_is_bit_equal_in_every_batch) {
  CudaWorld world(shape(2), dtype());
  const std::vector<HeadSpan> spans = {{64, 700}, {64, 128}};
  const auto make = [&] { return world.sequence(spans, 900, 17); };
  CudaSequence alone = make();
  for (const std::int64_t count : {600, 1, 200, 1, 1}) world.step({{&alone, count}});

  CudaSequence together = make();
  CudaSequence a = world.sequence({{64, 2000}, {64, 64}}, 2000, 18);
  CudaSequence b = world.sequence({{4, 60}, {64, 1000}}, 2000, 19);
  CudaSequence c = world.sequence(spans, 2000, 20);
  world.step({{&a, 300}, {&together, 600}, {&b, 1}});
  world.step({{&b, 1}, {&a, 1}, {&together, 1}});
  world.step({{&c, 70}, {&together, 200}, {&a, 1}, {&b, 900}});
  world.step({{&together, 1}, {&a, 1}});
  world.step({{&a, 1}, {&b, 1}, {&c, 1}, {&together, 1}});
  EXPECT_TRUE(same_bits(alone.out, together.out));
  for (CudaSequence* other : {&a, &b, &c}) world.expect_defined(*other, 1, true, "neighbour");
}

using CudaAttentionOnce = ::testing::Test;
constexpr AttentionShape kShape{.num_query_heads = 8, .num_kv_heads = 2, .head_dim = 128};

TEST(CudaAttentionOnce, the_same_step_a_hundred_times_has_the_same_bits) {
  CudaWorld world(kShape, DType::kBF16);
  std::vector<float> first;
  for (int i = 0; i < 100; ++i) {
    CudaSequence s = world.sequence({{64, 1500}, {64, 256}}, 1202, 23);
    world.step({{&s, 1200}});
    world.step({{&s, 1}});
    world.step({{&s, 1}});
    if (first.empty()) first = s.out;
    ASSERT_TRUE(same_bits(s.out, first)) << "run " << i;
  }
}

// One query of one head over eighty chunks, whose merge takes several rounds of loads.
TEST(CudaAttentionOnce, decode_of_one_head_over_many_chunks) {
  constexpr AttentionShape kOne{.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 128};
  CudaWorld world(kOne, DType::kBF16, 4096, 1, 20480);
  CudaSequence s = world.sequence({{64, 20200}}, 20003, 53);
  for (const std::int64_t count : {4096, 4096, 4096, 4096, 3616}) world.step({{&s, count}});
  for (int i = 0; i < 3; ++i) {
    world.step({{&s, 1}});
    world.expect_defined(s, 1, true, "decode");
  }
}

// More sequences than one launch has room for.
TEST(CudaAttentionOnce, a_large_batch_takes_several_launches) {
  constexpr int kSequences = 300;
  CudaWorld world(kShape, DType::kBF16, 512, kSequences, 4096);
  std::vector<CudaSequence> sequences;
  for (int i = 0; i < kSequences; ++i) {
    sequences.push_back(world.sequence({{64, 300}, {64, 64}}, 402, static_cast<std::uint32_t>(i)));
  }
  for (CudaSequence& s : sequences) world.step({{&s, 400}});
  Work all;
  for (CudaSequence& s : sequences) all.emplace_back(&s, 1);
  world.step(all);
  for (const int i : {0, 1, 113, 114, 115, 229, 230, 299}) {
    world.expect_defined(sequences[static_cast<std::size_t>(i)], 1, true, "sequence");
  }
}

// After a rollback the token taken back is gone, although its slot still holds it.
TEST(CudaAttentionOnce, decode_after_a_rollback) {
  CudaWorld world(kShape, DType::kBF16);
  CudaSequence s = world.sequence({{64, 128}, {64, 500}}, 402, 29);
  world.step({{&s, 400}});
  world.step({{&s, 1}});
  s.cache->rollback(1);
  const auto replacement = random_rounded(s.width() * 2, 31, DType::kBF16);
  std::copy(replacement.begin(), replacement.end(), s.qkv.begin() + 400 * s.width());
  world.step({{&s, 2}});
  world.expect_defined(s, 2, false, "after rollback");
}

// The last error of a thread stays until somebody asks for it.
TEST(CudaAttentionOnce, an_error_of_the_program_around_is_not_taken_for_ours) {
  CudaWorld world(kShape, DType::kBF16);
  CudaSequence s = world.sequence({{64, 128}, {64, 500}}, 302, 43);
  ASSERT_NE(cudaSetDevice(-1), cudaSuccess);
  EXPECT_NO_THROW(world.step({{&s, 301}}));
  EXPECT_NO_THROW(world.step({{&s, 1}}));
  cudaGetLastError();
  world.expect_defined(s, 1, true, "after an error");
}

// L1: a NaN in one sequence reaches no other.
TEST(CudaAttentionOnce, L1_a_nan_stays_in_its_sequence) {
  CudaWorld world(kShape, DType::kBF16);
  CudaSequence clean = world.sequence({{64, 128}, {64, 500}}, 302, 37);
  CudaSequence dirty = world.sequence({{64, 128}, {64, 500}}, 302, 38);
  dirty.qkv[static_cast<std::size_t>(dirty.width() * 10)] = std::numeric_limits<float>::quiet_NaN();
  world.step({{&dirty, 300}, {&clean, 300}});
  world.expect_defined(clean, 300, false, "clean prompt");
  world.step({{&dirty, 1}, {&clean, 1}});
  world.expect_defined(clean, 1, true, "clean decode");
  EXPECT_TRUE(std::isnan(dirty.out[static_cast<std::size_t>(dirty.out_width() * 10)]));
}

TEST(CudaAttentionOnce, steps_allocate_nothing_on_the_device) {
  CudaWorld world(kShape, DType::kBF16);
  CudaSequence s = world.sequence({{64, 128}, {64, 500}}, 302, 41);
  world.step({{&s, 300}});
  // Two tensors of the test itself.
  const std::int64_t calls = world.backend().allocator().calls();
  world.step({{&s, 1}});
  EXPECT_EQ(world.backend().allocator().calls(), calls + 2);
}

}  // namespace
}  // namespace moa_rt::testing
