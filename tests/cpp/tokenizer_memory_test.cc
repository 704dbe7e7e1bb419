// memory_bytes() against what loading leaves in the heap, counted by our own operator new.
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "support/tokenizer_files.h"

namespace {

std::atomic<std::int64_t> live_bytes{0};
constexpr std::size_t kHeader = alignof(std::max_align_t);

}  // namespace

// Every form that the standard library may call, so that none pairs with a sanitizer's own.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  auto* block = static_cast<std::byte*>(std::malloc(size + kHeader));
  if (block == nullptr) return nullptr;
  *reinterpret_cast<std::size_t*>(block) = size;
  live_bytes += static_cast<std::int64_t>(size);
  return block + kHeader;
}

void* operator new(std::size_t size) {
  void* pointer = operator new(size, std::nothrow);
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

void* operator new[](std::size_t size) { return operator new(size); }

void operator delete(void* pointer) noexcept {
  if (pointer == nullptr) return;
  auto* block = static_cast<std::byte*>(pointer) - kHeader;
  live_bytes -= static_cast<std::int64_t>(*reinterpret_cast<std::size_t*>(block));
  std::free(block);
}

void operator delete(void* pointer, std::size_t) noexcept { operator delete(pointer); }
void operator delete(void* pointer, const std::nothrow_t&) noexcept { operator delete(pointer); }
void operator delete[](void* pointer) noexcept { operator delete(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { operator delete(pointer); }

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
