#include "support/faults.h"

#include <cuda_runtime_api.h>

namespace moa_rt::testing {
namespace {

__global__ void fault() { __trap(); }

}  // namespace

void lose_device() {
  fault<<<1, 1>>>();
  cudaDeviceSynchronize();
}

}  // namespace moa_rt::testing
