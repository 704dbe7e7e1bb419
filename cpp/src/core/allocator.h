// Memory of a device, and the one owner of a block of it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "moa_rt/types.h"

namespace moa_rt {

// Alignment of every block: a cache line and an AVX-512 register.
inline constexpr std::size_t kAlignment = 64;

// Gives and takes blocks. Counts its calls and bytes, so that a test can show that decode makes
// none.
class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual Device device() const = 0;

  // At least `bytes` (> 0) bytes aligned to kAlignment. Throws ResourceError with the bytes asked
  // for.
  void* allocate(std::int64_t bytes);
  void release(void* data, std::int64_t bytes) noexcept;

  std::int64_t calls() const { return calls_.load(std::memory_order_relaxed); }
  std::int64_t live_bytes() const { return live_bytes_.load(std::memory_order_relaxed); }

 private:
  virtual void* do_allocate(std::int64_t bytes) = 0;  // nullptr when there is not enough
  virtual void do_release(void* data, std::int64_t bytes) noexcept = 0;

  std::atomic<std::int64_t> calls_{0};
  std::atomic<std::int64_t> live_bytes_{0};
};

// Host memory: anonymous pages for large blocks (2 MiB pages asked for), so that a freed cache goes
// back to the system at once; the heap for small ones.
std::unique_ptr<Allocator> make_host_allocator();

// Owns one block; empty by default. The allocator must outlive it.
class Storage {
 public:
  Storage() = default;
  Storage(Allocator& allocator, std::int64_t bytes);
  ~Storage() { reset(); }
  Storage(Storage&& other) noexcept { swap(other); }
  Storage& operator=(Storage&& other) noexcept {
    Storage(std::move(other)).swap(*this);
    return *this;
  }

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  void reset() noexcept;
  void swap(Storage& other) noexcept {
    std::swap(allocator_, other.allocator_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

 private:
  Allocator* allocator_ = nullptr;
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

}  // namespace moa_rt
