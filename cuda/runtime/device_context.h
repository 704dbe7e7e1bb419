// What must be current on a thread before it talks to a device.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <new>

namespace moa_rt::cuda {

// The primary context of a device: the one that the CUDA runtime, and whoever else uses the runtime
// in this process, works in. Held until the process ends, as the runtime would hold it: it takes a
// fraction of a second to make, and one that an error has ended must not come back as if nothing
// had happened.
class DeviceContext {
 public:
  // Makes the context if it is not there. Throws DeviceError if there is no such device or it
  // cannot be used, ResourceError if its memory is short.
  explicit DeviceContext(int device);

  CUcontext get() const { return context_; }

 private:
  CUcontext context_ = nullptr;
};

// Makes a device current for the calling thread until the end of the scope, and leaves the thread
// as it was. The runtime's own way, to set a device and the earlier one again, would make a context
// of half a gigabyte on that one, which nobody may want or be allowed to use.
class DeviceGuard {
 public:
  explicit DeviceGuard(const DeviceContext& context);
  // For destructors, and to ask a device that may be lost: does not throw.
  DeviceGuard(const DeviceContext& context, std::nothrow_t) noexcept;
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  cudaError_t status() const { return status_; }  // of making it current

 private:
  cudaError_t status_;
};

}  // namespace moa_rt::cuda
