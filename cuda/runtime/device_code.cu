#include "cuda/runtime/device_code.h"

namespace moa_rt::cuda {
namespace {

// Compiled for every architecture of the build; never launched.
__global__ void code_probe() {}

}  // namespace

cudaError_t find_device_code() {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, code_probe);
}

}  // namespace moa_rt::cuda
