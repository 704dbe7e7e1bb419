// Device memory behind the Allocator interface.
#pragma once

#include "core/allocator.h"

namespace moa_rt::cuda {

class DeviceAllocator final : public Allocator {
 public:
  explicit DeviceAllocator(int device) : device_(device) {}
  Device device() const override { return {DeviceType::kCuda, device_}; }

 private:
  void* do_allocate(std::int64_t bytes) override;
  void do_release(void* data, std::int64_t bytes) noexcept override;

  int device_;
};

}  // namespace moa_rt::cuda
