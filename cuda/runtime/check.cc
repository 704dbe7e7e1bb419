#include "cuda/runtime/check.h"

#include <string>

#include "moa_rt/error.h"

namespace moa_rt::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not fail the next call too
  const std::string message = std::string("cuda: ") + what + ": " + cudaGetErrorName(status) +
                              ": " + cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation) throw ResourceError(message);
  throw DeviceError(message);
}

}  // namespace moa_rt::cuda
