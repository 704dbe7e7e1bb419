// Whether this build has code for the device that is current.
#pragma once

#include <cuda_runtime_api.h>

namespace moa_rt::cuda {

// cudaSuccess, or why a kernel of this build cannot be loaded.
cudaError_t find_device_code();

}  // namespace moa_rt::cuda
