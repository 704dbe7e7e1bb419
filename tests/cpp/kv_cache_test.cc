// KVCache against a simulation that remembers which position every slot holds.
#include "cache/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "moa_rt/error.h"
#include "moa_rt/plan.h"

namespace {

using moa_rt::CacheLayout;
using moa_rt::DType;
using moa_rt::HeadSpan;
using moa_rt::KVCache;
using moa_rt::PositionRun;

constexpr std::int64_t kEmpty = -1;

// One head, from the definition: the first `sink` tokens in place, the rest in a ring.
class Slots {
 public:
  explicit Slots(const HeadSpan& head)
      : head_(head), held_(static_cast<std::size_t>(head.sink + head.window), kEmpty) {}

  void append(std::int64_t position) {
    const std::int64_t slot =
        position < head_.sink ? position : head_.sink + (position - head_.sink) % head_.window;
    held_[static_cast<std::size_t>(slot)] = position;
  }
  std::int64_t at(std::int64_t slot) const { return held_[static_cast<std::size_t>(slot)]; }
  std::int64_t size() const { return static_cast<std::int64_t>(held_.size()); }
  bool sees(std::int64_t q, std::int64_t k) const {
    return k <= q && (k < head_.sink || q - k < head_.window);
  }
  // Whether position k is in some slot.
  bool holds(std::int64_t k) const {
    for (const std::int64_t position : held_) {
      if (position == k) return true;
    }
    return false;
  }
  // Whether every token below `end` that a query at `end` or later sees is still in its slot.
  bool can_continue_from(std::int64_t end) const {
    for (std::int64_t k = 0; k < end; ++k) {
      if (sees(end, k) && !holds(k)) return false;
    }
    return true;
  }
  const HeadSpan& head() const { return head_; }

 private:
  HeadSpan head_;
  std::vector<std::int64_t> held_;
};

// The filled slots hold exactly what the query at `last` sees, and position_runs() says which.
void expect_holds_what_is_visible(const Slots& slots, std::int64_t last) {
  const std::int64_t filled = moa_rt::filled_slots(slots.head(), last + 1);
  std::int64_t visible = 0;
  for (std::int64_t k = 0; k <= last; ++k) visible += slots.sees(last, k) ? 1 : 0;
  ASSERT_EQ(filled, visible);
  for (std::int64_t slot = 0; slot < filled; ++slot) {
    ASSERT_GE(slots.at(slot), 0);
    ASSERT_TRUE(slots.sees(last, slots.at(slot)));
  }
}

void expect_runs_match(const Slots& slots, std::int64_t length) {
  const moa_rt::PositionRuns runs = moa_rt::position_runs(slots.head(), length);
  ASSERT_LE(runs.size, 3);
  std::int64_t covered = 0;
  std::int64_t next = 0;
  for (const PositionRun& run : runs) {
    ASSERT_GT(run.count, 0);
    ASSERT_GE(run.position, next);  // in order
    next = run.position + run.count;
    for (std::int64_t i = 0; i < run.count; ++i) {
      ASSERT_EQ(slots.at(run.slot + i), run.position + i);
    }
    covered += run.count;
  }
  ASSERT_EQ(covered, moa_rt::filled_slots(slots.head(), length));
}

// A KVCache of one layer beside one simulation for each head.
class World {
 public:
  World(moa_rt::Allocator& allocator, const std::vector<HeadSpan>& heads)
      : cache_(allocator, CacheLayout({heads}, 1, DType::kBF16)) {
    for (const HeadSpan& head : heads) slots_.emplace_back(head);
  }

  void append(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      for (Slots& slots : slots_) slots.append(cache_.length() + i);
    }
    cache_.advance(count);
    const std::int64_t length = cache_.length();
    for (const Slots& slots : slots_) {
      if (length > 0) expect_holds_what_is_visible(slots, length - 1);
      expect_runs_match(slots, length);
    }
  }

  // Compares the rule with the simulation and takes the tokens back if they agree that it can be
  // done.
  bool rollback(std::int64_t count) {
    const std::int64_t before = cache_.length();
    bool want = count >= 0 && count <= before;
    for (const Slots& slots : slots_) want = want && slots.can_continue_from(before - count);
    EXPECT_EQ(cache_.can_rollback(count), want)
        << "length " << before << ", count " << count << ", head " << slots_[0].head().sink << "+"
        << slots_[0].head().window;
    if (want) {
      cache_.rollback(count);
      EXPECT_EQ(cache_.length(), before - count);
    } else {
      EXPECT_THROW(cache_.rollback(count), moa_rt::StateError);
      EXPECT_EQ(cache_.length(), before);
    }
    return want;
  }

  const KVCache& cache() const { return cache_; }

 private:
  KVCache cache_;
  std::vector<Slots> slots_;
};

class KVCacheTest : public testing::Test {
 protected:
  std::unique_ptr<moa_rt::Allocator> allocator_ = moa_rt::make_host_allocator();
};

// Prompts shorter than the sink, than sink + window, equal and longer; decode through several
// wraps.
TEST_F(KVCacheTest, H1_H2_small_world_holds_what_is_visible) {
  for (std::int64_t sink = 0; sink <= 4; ++sink) {
    for (std::int64_t window = 1; window <= 8; ++window) {
      for (std::int64_t prompt = 1; prompt <= 24; ++prompt) {
        World world(*allocator_, {{sink, window}});
        world.append(prompt);
        for (int step = 0; step < 24 && !HasFatalFailure(); ++step) world.append(1);
      }
    }
  }
}

// Every way to take tokens back and go on, twice, from every length.
TEST_F(KVCacheTest, H7_small_world_rollback_is_exact) {
  for (std::int64_t sink = 0; sink <= 4; ++sink) {
    for (std::int64_t window = 1; window <= 8; ++window) {
      for (std::int64_t prompt = 1; prompt <= 24; ++prompt) {
        for (std::int64_t count = 0; count <= prompt + 1; ++count) {
          for (const std::int64_t again : {1, 2, 5}) {
            World world(*allocator_, {{sink, window}});
            world.append(prompt);
            if (!world.rollback(count)) break;
            world.append(again);
            for (std::int64_t second = 0; second <= 3; ++second) {
              if (world.rollback(second)) world.append(second + 1);
            }
            if (HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST_F(KVCacheTest, H2_H7_random_cases) {
  std::mt19937_64 random(99);
  const auto below = [&random](std::int64_t limit) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit));
  };
  std::int64_t taken = 0;
  std::int64_t refused = 0;
  for (int i = 0; i < 100'000 && !HasFailure(); ++i) {
    std::vector<HeadSpan> heads;
    for (std::int64_t head = 0; head <= below(3); ++head) {
      heads.push_back({below(20), 1 + below(below(4) == 0 ? 100 : 12)});
    }
    World world(*allocator_, heads);
    for (int step = 0; step < 6; ++step) {
      world.append(1 + below(below(3) == 0 ? 90 : 3));
      if (below(2) == 0) continue;
      const bool done =
          world.rollback(below(3) == 0 ? below(world.cache().length() + 2) : below(3));
      (done ? taken : refused) += 1;
    }
  }
  EXPECT_GT(taken, 50'000);
  EXPECT_GT(refused, 50'000);
}

// Larger spans, several wraps, one token at a time.
TEST_F(KVCacheTest, H2_long_decode) {
  std::mt19937_64 random(5);
  for (int i = 0; i < 8; ++i) {
    const HeadSpan head{static_cast<std::int64_t>(random() % 70),
                        1 + static_cast<std::int64_t>(random() % 300)};
    World world(*allocator_, {head});
    world.append(static_cast<std::int64_t>(random() % 700));
    for (int step = 0; step < 1300 && !HasFailure(); ++step) world.append(1);
  }
}

TEST_F(KVCacheTest, H7_the_smallest_span_decides) {
  World world(*allocator_, {{2, 100}, {2, 4}});
  world.append(6);  // the smaller head is just full
  EXPECT_TRUE(world.cache().can_rollback(6));
  world.append(1);
  EXPECT_TRUE(world.cache().can_rollback(1));
  EXPECT_FALSE(world.cache().can_rollback(2));
  EXPECT_TRUE(world.cache().can_rollback(5));  // back into the sink: no window is needed
  EXPECT_FALSE(world.cache().can_rollback(-1));
  EXPECT_FALSE(world.cache().can_rollback(8));
  EXPECT_TRUE(world.rollback(1));
  EXPECT_FALSE(world.rollback(1));  // the token before was overwritten by the one taken back
}

// Bytes and segments: what was predicted is what is allocated, and no two segments overlap.
TEST_F(KVCacheTest, bytes_are_the_sum_of_spans) {
  constexpr std::int64_t kOne = std::int64_t{1} << 32;
  const moa_rt::AttentionPlan plan = moa_rt::AttentionPlan::from_rules(
      {{{0, kOne / 2, 0}, {128, 0, 0}, {-100, kOne, 256}}, {{}, {1, kOne / 3, 0}, {65, 0, 0}}});
  for (const std::int64_t n : {1, 63, 64, 65, 500, 1000}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      std::int64_t tokens = 0;
      for (const auto& layer : plan.spans(n)) {
        for (const HeadSpan& head : layer) tokens += head.sink + head.window;
      }
      const std::int64_t want = tokens * 2 * 80 * (dtype == DType::kF32 ? 4 : 2);
      const std::int64_t before = allocator_->live_bytes();
      KVCache cache(*allocator_, CacheLayout(plan.spans(n), 80, dtype));
      EXPECT_EQ(allocator_->live_bytes() - before, want);
      EXPECT_EQ(cache.bytes(), want);
      EXPECT_EQ(plan.cache_bytes(n, 80, dtype), want);
      const std::byte* end = cache.segment(0, 0).keys;
      for (std::int64_t layer = 0; layer < 2; ++layer) {
        for (std::int64_t head = 0; head < 3; ++head) {
          const moa_rt::HeadSegment segment = cache.segment(layer, head);
          const std::int64_t half = segment.head.span() * 80 * moa_rt::size_of(dtype);
          EXPECT_EQ(segment.keys, end);
          EXPECT_EQ(segment.values, segment.keys + half);
          end = segment.values + half;
        }
      }
      EXPECT_EQ(end - cache.segment(0, 0).keys, want);
    }
  }
  EXPECT_EQ(allocator_->live_bytes(), 0);
}

TEST_F(KVCacheTest, H11_impossible_size_is_refused) {
  const std::int64_t span = std::int64_t{1} << 50;
  EXPECT_THROW(KVCache(*allocator_, CacheLayout({{{0, span}}}, 128, DType::kBF16)),
               moa_rt::ResourceError);
  EXPECT_EQ(allocator_->live_bytes(), 0);
}

}  // namespace
