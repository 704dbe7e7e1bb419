#include "cuda/runtime/check.h"

#include <string>

#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

// ", 1024 bytes free of 4096", or nothing where the driver does not say.
std::string free_memory() {
  std::size_t free = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
    cudaGetLastError();
    return "";
  }
  return ", " + std::to_string(free) + " bytes free of " + std::to_string(total);
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not fail the next call too
  const std::string message = std::string("cuda: ") + what + ": " + cudaGetErrorName(status) +
                              ": " + cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) throw ResourceError(message + free_memory());
  throw DeviceError(message);
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&value, attribute, device), "device");
  return value;
}

}  // namespace moa_rt::cuda
