#include "core/allocator.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <string>

#include "moa_rt/error.h"
#include "moa_rt/span.h"

namespace moa_rt {

void* Allocator::allocate(std::int64_t bytes) {
  if (bytes <= 0) throw InternalError("allocation of " + std::to_string(bytes) + " bytes");
  calls_.fetch_add(1, std::memory_order_relaxed);
  void* data = do_allocate(bytes);
  if (data == nullptr) {
    throw ResourceError(device_name(device()) + ": allocation of " + std::to_string(bytes) +
                        " bytes failed");
  }
  live_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  return data;
}

void Allocator::release(void* data, std::int64_t bytes) noexcept {
  if (data == nullptr) return;
  live_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  do_release(data, bytes);
}

namespace {

// Blocks from here on come straight from the kernel, aligned so that 2 MiB pages can back them.
constexpr std::int64_t kLargeBlock = std::int64_t{1} << 20;
constexpr std::int64_t kHugePage = std::int64_t{2} << 20;

class HostAllocator final : public Allocator {
 public:
  Device device() const override { return {DeviceType::kCpu, 0}; }

 private:
  void* do_allocate(std::int64_t bytes) override {
    if (bytes < kLargeBlock) {
      return std::aligned_alloc(kAlignment, static_cast<std::size_t>(round_up(bytes, kAlignment)));
    }
    return map_aligned(bytes);
  }

  void do_release(void* data, std::int64_t bytes) noexcept override {
    if (bytes < kLargeBlock) {
      std::free(data);
    } else {
      munmap(data, static_cast<std::size_t>(bytes));
    }
  }

  // Maps a little more, then gives back what lies outside the aligned block.
  static void* map_aligned(std::int64_t bytes) {
    if (bytes > INT64_MAX - kHugePage) return nullptr;
    const std::int64_t page = 4096;
    const std::int64_t length = round_up(bytes, page);
    void* base = mmap(nullptr, static_cast<std::size_t>(length + kHugePage), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return nullptr;
    char* begin = static_cast<char*>(base);
    const auto address = reinterpret_cast<std::uintptr_t>(begin);
    const std::int64_t lead =
        (kHugePage - static_cast<std::int64_t>(address % kHugePage)) % kHugePage;
    char* data = begin + lead;
    if (lead > 0) munmap(begin, static_cast<std::size_t>(lead));
    if (lead < kHugePage) {
      munmap(data + length, static_cast<std::size_t>(kHugePage - lead));
    }
    // Only whole huge pages: rounding a small cache up to 2 MiB would break the byte count.
    const std::int64_t huge = bytes / kHugePage * kHugePage;
    if (huge > 0) madvise(data, static_cast<std::size_t>(huge), MADV_HUGEPAGE);
    return data;
  }
};

}  // namespace

std::unique_ptr<Allocator> make_host_allocator() { return std::make_unique<HostAllocator>(); }

Storage::Storage(Allocator& allocator, std::int64_t bytes)
    : allocator_(&allocator),
      data_(static_cast<std::byte*>(allocator.allocate(bytes))),
      bytes_(bytes) {}

void Storage::reset() noexcept {
  if (allocator_ != nullptr) allocator_->release(data_, bytes_);
  allocator_ = nullptr;
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace moa_rt
