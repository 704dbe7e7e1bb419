#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/attention_world.h"

namespace moa_rt {
namespace {

class AttentionTest : public BackendTest {
 protected:
  static World world(const AttentionShape& shape, int threads = 2) {
    return World(make_backend(threads), shape, dtype());
  }
  static void expect_definition(const Sequence& sequence, std::int64_t from,
                                const std::string& what) {
    const Oracle oracle = attention_oracle(sequence, from, dtype());
    expect_close(std::span(sequence.out).subspan(from * sequence.out_width()), oracle.out,
                 tolerance(dtype()).attention, oracle.scale, what);
  }
};

AttentionShape shape_of(std::int64_t group, std::int64_t kv_heads, std::int64_t head_dim) {
  return {.num_query_heads = group * kv_heads, .num_kv_heads = kv_heads, .head_dim = head_dim};
}

// Every group size and head_dim; heads of one layer with different spans; prompt, then decode.
TEST_P(AttentionTest, equals_the_definition) {
  const AttentionShape shapes[] = {shape_of(1, 3, 16),  shape_of(2, 3, 64), shape_of(3, 3, 64),
                                   shape_of(4, 3, 80),  shape_of(7, 2, 64), shape_of(8, 3, 128),
                                   shape_of(3, 2, 96),  shape_of(2, 1, 8),  shape_of(5, 3, 24),
                                   shape_of(9, 1, 256), shape_of(1, 1, 80), shape_of(4, 2, 96)};
  for (const AttentionShape& shape : shapes) {
    World w = world(shape);
    const std::vector<HeadSpan> spans{{4, 60}, {0, 1}, {64, 500}};
    Sequence sequence = w.sequence({spans.begin(), spans.begin() + shape.num_kv_heads}, 150, 7);
    w.step({{&sequence, 140}});
    for (int i = 0; i < 10; ++i) w.step({{&sequence, 1}});
    expect_definition(sequence, 0,
                      "group " + std::to_string(shape.num_query_heads / shape.num_kv_heads) +
                          " head_dim " + std::to_string(shape.head_dim));
  }
}

TEST_P(AttentionTest, H1_H2_prompts_around_the_span_and_through_wraps) {
  const HeadSpan span{8, 24};
  World w = world(shape_of(3, 2, 16));
  for (const std::int64_t length : {7, 8, 9, 31, 32, 33, 128}) {
    Sequence sequence = w.sequence({span, {0, 40}}, length + 30, 3);
    w.step({{&sequence, length}});
    for (int i = 0; i < 30; ++i) w.step({{&sequence, 1}});
    expect_definition(sequence, 0, "prompt " + std::to_string(length));
  }
}

TEST_P(AttentionTest, H6_chunks_of_every_size) {
  World w = world(shape_of(2, 2, 16));
  const std::int64_t length = 41;
  for (std::int64_t chunk = 1; chunk <= length; ++chunk) {
    Sequence sequence = w.sequence({{3, 5}, {0, 16}}, length, 3);
    while (sequence.length() < length) {
      w.step({{&sequence, std::min(chunk, length - sequence.length())}});
    }
    expect_definition(sequence, 0, "chunk " + std::to_string(chunk));
  }
}

// Chunks longer and shorter than the 64-key tiles, over rings that have wrapped.
TEST_P(AttentionTest, H6_long_chunks_over_wrapped_rings) {
  World w = world(shape_of(3, 3, 64));
  for (const std::int64_t chunk : {50, 64, 97, 200}) {
    Sequence sequence = w.sequence({{64, 64}, {10, 170}, {64, 1000}}, 500, 3);
    while (sequence.length() < 500) w.step({{&sequence, std::min(chunk, 500 - sequence.length())}});
    expect_definition(sequence, 0, "chunk " + std::to_string(chunk));
  }
}

// More than one decode chunk, with a ring that starts anywhere.
TEST_P(AttentionTest, decode_over_many_chunks) {
  World w = world(shape_of(3, 2, 64));
  Sequence sequence = w.sequence({{64, 636}, {64, 5000}}, 1100, 3);
  w.step({{&sequence, 1090}});
  for (int i = 0; i < 10; ++i) w.step({{&sequence, 1}});
  expect_definition(sequence, 1085, "1100 positions");
}

TEST_P(AttentionTest, random_spans_and_chunks) {
  std::mt19937 random(11);
  const auto pick = [&](std::int64_t min, std::int64_t max) {
    return std::uniform_int_distribution<std::int64_t>(min, max)(random);
  };
  World w = world(shape_of(2, 2, 8));
  for (int i = 0; i < 300; ++i) {
    const std::int64_t length = pick(1, 60);
    Sequence sequence = w.sequence({{pick(0, 6), pick(1, 20)}, {pick(0, 70), pick(1, 70)}}, length,
                                   static_cast<std::uint32_t>(i));
    while (sequence.length() < length) {
      const std::int64_t left = length - sequence.length();
      w.step({{&sequence, pick(0, 2) == 0 ? 1 : pick(1, left)}});
    }
    expect_definition(sequence, 0, "case " + std::to_string(i));
  }
}

// H3: each head alone is the head in the mix, bit for bit.
TEST_P(AttentionTest, H3_a_head_does_not_see_its_neighbours) {
  const std::vector<HeadSpan> spans{{2, 9}, {0, 1}, {16, 300}};
  World mixed = world(shape_of(3, 3, 64));
  World single = world(shape_of(3, 1, 64));
  Sequence all = mixed.sequence(spans, 90, 5);
  mixed.step({{&all, 80}});
  for (int i = 0; i < 10; ++i) mixed.step({{&all, 1}});
  for (std::int64_t head = 0; head < 3; ++head) {
    Sequence one = single.sequence({spans[static_cast<std::size_t>(head)]}, 90, 0);
    one.copy_head(all, head);
    single.step({{&one, 80}});
    for (int i = 0; i < 10; ++i) single.step({{&one, 1}});
    for (std::int64_t p = 0; p < 90; ++p) {
      ASSERT_TRUE(same_bits(one.out_head(p, 0), all.out_head(p, head))) << head << " at " << p;
    }
  }
}

// H4: ragged batches, decode beside prefill, give every sequence what it gets alone.
TEST_P(AttentionTest, H4_a_sequence_does_not_see_its_batch) {
  const std::vector<HeadSpan> spans[] = {
      {{2, 30}, {4, 400}}, {{0, 7}, {64, 64}}, {{1, 1}, {0, 600}}};
  const std::vector<std::int64_t> counts[] = {{70, 1, 1, 90}, {300, 1, 1, 1}, {1, 33, 1, 130}};
  World w = world(shape_of(3, 2, 64));
  std::vector<Sequence> alone, batch;
  for (std::uint32_t s = 0; s < 3; ++s) {
    alone.push_back(w.sequence(spans[s], 320, s));
    batch.push_back(w.sequence(spans[s], 320, s));
    for (const std::int64_t count : counts[s]) w.step({{&alone[s], count}});
  }
  for (std::size_t i = 0; i < 4; ++i) {
    w.step({{&batch[2], counts[2][i]}, {&batch[0], counts[0][i]}, {&batch[1], counts[1][i]}});
  }
  for (std::size_t s = 0; s < 3; ++s) {
    EXPECT_TRUE(same_bits(alone[s].out_so_far(), batch[s].out_so_far())) << s;
  }
}

// H5: what an earlier owner left in the memory is never read.
TEST_P(AttentionTest, H5_nan_in_unused_slots_changes_nothing) {
  World w = world(shape_of(3, 2, 64));
  std::vector<Sequence> runs;
  for (const int fill : {0x00, 0xff}) {
    Sequence sequence = w.sequence({{5, 300}, {0, 40}}, 330, 5, fill);
    for (const std::int64_t count : {20, 1, 1, 250, 1, 40, 1, 1, 1, 14})
      w.step({{&sequence, count}});
    runs.push_back(std::move(sequence));
  }
  EXPECT_TRUE(same_bits(runs[0].out_so_far(), runs[1].out_so_far()));
}

// H10: a span that holds everything is the dense head, however it is split into sink and window.
TEST_P(AttentionTest, H10_spans_beyond_the_length_are_dense) {
  World w = world(shape_of(3, 1, 64));
  std::vector<Sequence> runs;
  for (const HeadSpan span : {HeadSpan{0, 400}, HeadSpan{0, 5000}}) {
    Sequence sequence = w.sequence({span}, 400, 5);
    for (const std::int64_t count : {310, 1, 1, 80, 1, 7}) w.step({{&sequence, count}});
    runs.push_back(std::move(sequence));
  }
  EXPECT_TRUE(same_bits(runs[0].out_so_far(), runs[1].out_so_far()));
}

TEST_P(AttentionTest, threads_do_not_change_a_bit) {
  std::vector<World> worlds;  // own the memory of the runs
  std::vector<Sequence> runs;
  for (const int threads : {1, 2, 3}) {
    worlds.push_back(world(shape_of(3, 3, 64), threads));
    Sequence sequence = worlds.back().sequence({{5, 300}, {0, 40}, {64, 900}}, 705, 5);
    for (const std::int64_t count : {400, 1, 1, 300, 1, 1, 1})
      worlds.back().step({{&sequence, count}});
    runs.push_back(std::move(sequence));
  }
  EXPECT_TRUE(same_bits(runs[0].out_so_far(), runs[1].out_so_far()));
  EXPECT_TRUE(same_bits(runs[0].out_so_far(), runs[2].out_so_far()));
}

// L3: one key is returned as it is, up to the last rounding of the division.
TEST_P(AttentionTest, L3_span_of_one_returns_the_value) {
  World w = world(shape_of(2, 1, 64));
  Sequence sequence = w.sequence({{0, 1}}, 80, 5);
  w.step({{&sequence, 70}});
  for (int i = 0; i < 10; ++i) w.step({{&sequence, 1}});
  for (std::int64_t p = 0; p < 80; ++p) {
    for (std::int64_t i = 0; i < 128; ++i) {
      const float value = sequence.value(p, 0)[static_cast<std::size_t>(i % 64)];
      ASSERT_FLOAT_EQ(sequence.out_head(p, 0)[static_cast<std::size_t>(i)], rounded(value));
    }
  }
}

// L3: scores of 1e4 of either sign overflow no exponential.
TEST_P(AttentionTest, L3_scores_up_to_ten_thousand_are_finite) {
  World w = world(shape_of(2, 1, 64));
  Sequence sequence = w.sequence({{8, 400}}, 300, 5, 0xff, /*scale=*/36.0f);
  w.step({{&sequence, 290}});
  for (int i = 0; i < 10; ++i) w.step({{&sequence, 1}});
  double largest = 0.0;
  for (std::int64_t p = 1; p < 300; ++p) {
    double score = 0.0;
    for (std::size_t d = 0; d < 64; ++d)
      score += sequence.query(p, 0)[d] * sequence.key(p - 1, 0)[d];
    largest = std::max(largest, std::fabs(score) / 8.0);
  }
  EXPECT_GT(largest, 3000.0);
  for (const float x : sequence.out_so_far()) ASSERT_TRUE(std::isfinite(x));
}

// L3: a million keys, all equal but one row of values: the mean comes out.
TEST_P(AttentionTest, L3_a_million_keys) {
  const std::int64_t keys = std::int64_t{1} << 20;
  World w(make_backend(), shape_of(1, 1, 8), dtype(), {.rows = 4, .sequences = 1, .length = keys});
  Sequence sequence = w.sequence({{64, keys - 64}}, 1, 5);
  sequence.set_history(keys - 1, /*key=*/0.25f, /*value=*/1.0f);
  w.step({{&sequence, 1}});
  for (const float x : sequence.out_so_far()) EXPECT_NEAR(x, 1.0, 1e-4);
}

TEST_P(AttentionTest, a_slice_leaves_its_visible_tokens_in_the_cache) {
  World w = world(shape_of(1, 2, 16));
  const std::vector<HeadSpan> spans{{3, 6}, {0, 64}};
  for (const std::int64_t count : {2, 8, 9, 10, 50}) {
    Sequence sequence = w.sequence(spans, count + 3, 5);
    w.step({{&sequence, 3}});
    w.step({{&sequence, count}});
    for (std::size_t head = 0; head < spans.size(); ++head) {
      for (std::int64_t p = 0; p < count + 3; ++p) {
        const bool kept = p < spans[head].sink || count + 2 - p < spans[head].window;
        if (!kept) continue;
        const auto key = sequence.cached_key(p, static_cast<std::int64_t>(head));
        const auto value = sequence.cached_value(p, static_cast<std::int64_t>(head));
        for (std::size_t d = 0; d < 16; ++d) {
          ASSERT_EQ(key[d], rounded(sequence.key(p, static_cast<std::int64_t>(head))[d]));
          ASSERT_EQ(value[d], rounded(sequence.value(p, static_cast<std::int64_t>(head))[d]));
        }
      }
    }
  }
}

TEST_P(AttentionTest, no_allocation_after_reserve) {
  World w = world(shape_of(3, 2, 64));
  Sequence sequence = w.sequence({{5, 300}, {0, 40}}, 310, 5);
  const std::int64_t calls = w.backend().allocator().calls();
  for (const std::int64_t count : {300, 1, 1, 8}) w.step({{&sequence, count}});
  EXPECT_EQ(w.backend().allocator().calls(), calls);
}

MOA_RT_FOR_EVERY_VARIANT(AttentionTest);

}  // namespace
}  // namespace moa_rt
