// Device memory behind the Allocator interface.
#pragma once

#include <mutex>
#include <optional>

#include "core/allocator.h"
#include "core/arena.h"
#include "cuda/runtime/device_context.h"

namespace moa_rt::cuda {

// Blocks come out of the memory set aside, where there is some with room, and from the device
// otherwise: cudaMalloc and cudaFree wait for everything that runs, so sequences that come and go
// must not need them.
class DeviceAllocator final : public Allocator {
 public:
  // Makes the device's context if it is not there: only for a device that has been judged.
  explicit DeviceAllocator(int device) : device_(device), context_(device) {}
  ~DeviceAllocator() override;
  Device device() const override { return {DeviceType::kCuda, device_}; }
  const DeviceContext& context() const { return context_; }

  // Takes `bytes` from the device, once, for up to `blocks` blocks of that size together. Throws
  // ResourceError with what is free; nothing is held then.
  void set_aside(std::int64_t bytes, std::int64_t blocks);

 private:
  void* do_allocate(std::int64_t bytes) override;
  void do_release(void* data, std::int64_t bytes) noexcept override;
  void* take(std::int64_t bytes) const;
  void give_back(void* data) const noexcept;

  int device_;
  DeviceContext context_;
  std::mutex mutex_;  // the arena
  std::optional<Arena> arena_;
  std::byte* memory_ = nullptr;  // of the arena
};

}  // namespace moa_rt::cuda
