// Arena: blocks never overlap, every byte comes back, and holes merge, whatever the order.
#include "core/arena.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "moa_rt/error.h"

namespace moa_rt {
namespace {

TEST(ArenaTest, blocks_are_aligned_and_the_last_byte_is_given_out) {
  Arena arena(1000, 256);
  EXPECT_EQ(arena.allocate(1), 0);
  EXPECT_EQ(arena.allocate(256), 256);
  EXPECT_EQ(arena.allocate(489), std::nullopt);
  EXPECT_EQ(arena.allocate(488), 512);
  EXPECT_EQ(arena.allocate(1), std::nullopt);
  EXPECT_EQ(arena.largest_hole(), 0);
}

TEST(ArenaTest, neighbouring_holes_are_one) {
  Arena arena(300, 1);
  for (const std::int64_t want : {0, 100, 200}) EXPECT_EQ(arena.allocate(100), want);
  arena.release(0);
  arena.release(200);
  EXPECT_EQ(arena.largest_hole(), 100);
  EXPECT_EQ(arena.allocate(150), std::nullopt);
  arena.release(100);
  EXPECT_EQ(arena.largest_hole(), 300);
  EXPECT_EQ(arena.allocate(300), 0);
}

TEST(ArenaTest, the_smallest_hole_that_fits_is_taken) {
  Arena arena(1000, 1);
  for (const std::int64_t bytes : {300, 10, 100, 10, 200, 380}) (void)arena.allocate(bytes);
  arena.release(0);    // 300 bytes
  arena.release(310);  // 100
  arena.release(420);  // 200
  EXPECT_EQ(arena.allocate(150), 420);
  EXPECT_EQ(arena.allocate(90), 310);
  EXPECT_EQ(arena.allocate(300), 0);
}

TEST(ArenaTest, what_was_not_given_out_cannot_come_back) {
  Arena arena(100, 1);
  EXPECT_THROW((void)arena.allocate(0), InternalError);
  EXPECT_FALSE(arena.release(0));
  (void)arena.allocate(10);
  EXPECT_FALSE(arena.release(5));
  EXPECT_TRUE(arena.release(0));
  EXPECT_FALSE(arena.release(0));
}

// Against a map of bytes: 4,000 random calls.
TEST(ArenaTest, random_blocks_never_overlap_and_a_free_arena_is_one_hole) {
  constexpr std::int64_t kCapacity = 4096, kAlignment = 16;
  struct Block {
    std::int64_t offset, bytes;
  };
  std::mt19937 random(7);
  Arena arena(kCapacity, kAlignment);
  std::vector<bool> used(kCapacity, false);
  std::vector<Block> blocks;
  const auto mark = [&](const Block& block, bool value) {
    for (std::int64_t i = 0; i < block.bytes; ++i) {
      const auto at = static_cast<std::size_t>(block.offset + i);
      ASSERT_NE(used.at(at), value);
      used[at] = value;
    }
  };
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::int64_t bytes = 1 + static_cast<std::int64_t>(random() % 700);
    const auto offset = random() % 2 == 0 ? arena.allocate(bytes) : std::nullopt;
    if (offset) {
      EXPECT_EQ(*offset % kAlignment, 0);
      blocks.push_back({*offset, bytes});
      mark(blocks.back(), true);
    } else if (!blocks.empty()) {
      ++refused;
      const std::size_t victim = random() % blocks.size();
      mark(blocks[victim], false);
      arena.release(blocks[victim].offset);
      blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  }
  EXPECT_GT(refused, 100);
  for (const Block& block : blocks) arena.release(block.offset);
  EXPECT_EQ(arena.largest_hole(), kCapacity);
}

}  // namespace
}  // namespace moa_rt
