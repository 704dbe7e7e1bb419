#include "cuda/runtime/device_context.h"

#include <string>

#include "cuda/runtime/shared_library.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

// The functions of the driver that the runtime has no word for.
struct Driver {
  decltype(&cuInit) init;
  decltype(&cuDeviceGet) device;
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
};

// Opened on first use, as the runtime opens it.
Driver open() {
  const SharedLibrary library("NVIDIA driver", "libcuda.so.1", "none");
  Driver driver = {};
  library.find("cuInit", driver.init);
  library.find("cuDeviceGet", driver.device);
  library.find("cuDevicePrimaryCtxRetain", driver.retain);
  library.find("cuCtxPushCurrent_v2", driver.push);
  library.find("cuCtxPopCurrent_v2", driver.pop);
  return driver;
}

const Driver& driver() {
  static const Driver opened = open();
  return opened;
}

// The runtime has the driver's errors under the same numbers.
static_assert(static_cast<int>(CUDA_ERROR_OUT_OF_MEMORY) == cudaErrorMemoryAllocation);
static_assert(static_cast<int>(CUDA_ERROR_DEVICE_UNAVAILABLE) == cudaErrorDevicesUnavailable);
static_assert(static_cast<int>(CUDA_ERROR_ILLEGAL_ADDRESS) == cudaErrorIllegalAddress);
cudaError_t as_runtime(CUresult status) { return static_cast<cudaError_t>(status); }

// As check(), which would ask how much memory is free: that makes a context where there is none.
void check_context(cudaError_t status) {
  if (status == cudaSuccess) return;
  const std::string message =
      std::string("cuda: context: ") + cudaGetErrorName(status) + ": " + cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) throw ResourceError(message);
  throw DeviceError(message);
}

}  // namespace

DeviceContext::DeviceContext(int device) {
  CUdevice handle = 0;
  check_context(as_runtime(driver().init(0)));
  check_context(as_runtime(driver().device(&handle, device)));
  check_context(as_runtime(driver().retain(&context_, handle)));
}

DeviceGuard::DeviceGuard(const DeviceContext& context) : DeviceGuard(context, std::nothrow) {
  check_context(status_);
}

// There is a context, so the driver is open.
DeviceGuard::DeviceGuard(const DeviceContext& context, std::nothrow_t) noexcept
    : status_(as_runtime(driver().push(context.get()))) {}

DeviceGuard::~DeviceGuard() {
  CUcontext popped = nullptr;
  if (status_ == cudaSuccess) driver().pop(&popped);
}

}  // namespace moa_rt::cuda
