#include "cuda/runtime/device_allocator.h"

#include "cuda/runtime/handles.h"

namespace moa_rt::cuda {

void* DeviceAllocator::do_allocate(std::int64_t bytes) {
  const DeviceGuard guard(device_);
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status, "device memory");
  return data;
}

// A lost device cannot give memory back; there is nobody to tell in a destructor.
void DeviceAllocator::do_release(void* data, std::int64_t) noexcept { cudaFree(data); }

}  // namespace moa_rt::cuda
