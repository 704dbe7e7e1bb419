#include "cuda/runtime/device_allocator.h"

#include <string>

#include "core/message.h"
#include "cuda/runtime/check.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

// Vector loads and bulk copies want 16 and 128; whole lines of L2 are good for every reader.
constexpr std::int64_t kBlockAlignment = 256;

}  // namespace

void* DeviceAllocator::take(std::int64_t bytes) const {
  const DeviceGuard guard(context_);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
  if (status == cudaSuccess) return data;
  if (status != cudaErrorMemoryAllocation) check(status, "device memory");
  cudaGetLastError();
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  throw ResourceError(
      describe({.item = device_name(device()),
                .field = "memory",
                .got = std::to_string(free) + " bytes free of " + std::to_string(total),
                .want = std::to_string(bytes) + " in one block"}));
}

// A lost device cannot give memory back; there is nobody to tell in a destructor.
void DeviceAllocator::give_back(void* data) const noexcept {
  const DeviceGuard guard(context_, std::nothrow);
  cudaFree(data);
}

DeviceAllocator::~DeviceAllocator() {
  if (memory_ != nullptr) give_back(memory_);
}

void DeviceAllocator::set_aside(std::int64_t bytes, std::int64_t blocks) {
  if (arena_) throw InternalError("device memory set aside twice");
  const std::int64_t capacity = bytes + blocks * kBlockAlignment;
  memory_ = static_cast<std::byte*>(take(capacity));
  arena_.emplace(capacity, kBlockAlignment);
}

void* DeviceAllocator::do_allocate(std::int64_t bytes) {
  if (arena_) {
    const std::scoped_lock lock(mutex_);
    if (const auto offset = arena_->allocate(bytes)) return memory_ + *offset;
  }
  return take(bytes);
}

void DeviceAllocator::do_release(void* data, std::int64_t) noexcept {
  auto* const block = static_cast<std::byte*>(data);
  if (arena_ && block >= memory_ && block < memory_ + arena_->capacity()) {
    const std::scoped_lock lock(mutex_);
    arena_->release(block - memory_);
  } else {
    give_back(data);
  }
}

}  // namespace moa_rt::cuda
