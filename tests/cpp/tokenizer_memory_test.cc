// memory_bytes() against what loading leaves in the heap, counted by our own operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "support/tokenizer_files.h"

namespace {

std::atomic<std::int64_t> live_bytes{0};
constexpr std::size_t kHeader = alignof(std::max_align_t);

}  // namespace

void* operator new(std::size_t size) {
  auto* block = static_cast<std::byte*>(std::malloc(size + kHeader));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(block) = size;
  live_bytes += static_cast<std::int64_t>(size);
  return block + kHeader;
}

void operator delete(void* pointer) noexcept {
  if (pointer == nullptr) return;
  auto* block = static_cast<std::byte*>(pointer) - kHeader;
  live_bytes -= static_cast<std::int64_t>(*reinterpret_cast<std::size_t*>(block));
  std::free(block);
}

void operator delete(void* pointer, std::size_t) noexcept { operator delete(pointer); }

namespace moa_rt {
namespace {

// What the count leaves out: control blocks, and the few strings of components.
constexpr std::int64_t kSmallParts = 1024;

TEST(TokenizerMemory, says_what_loading_keeps) {
  for (const std::string& family : testing::golden_families()) {
    const std::int64_t before = live_bytes;
    const Tokenizer tokenizer = testing::load_golden(family);
    const std::int64_t kept = live_bytes - before;
    EXPECT_GT(kept, 30000) << family;
    EXPECT_LE(tokenizer.memory_bytes(), kept) << family;
    EXPECT_GE(tokenizer.memory_bytes(), kept - kSmallParts) << family;
  }
}

// Neither encoding nor decoding leaves anything behind.
TEST(TokenizerMemory, encoding_keeps_nothing) {
  const Tokenizer tokenizer = testing::load_golden("qwen2");
  const std::int64_t before = live_bytes;
  for (int i = 0; i < 10; ++i)
    (void)tokenizer.decode(tokenizer.encode("some text, e\u0301 and 12"));
  EXPECT_EQ(live_bytes, before);
}

}  // namespace
}  // namespace moa_rt
