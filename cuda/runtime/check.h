// Every call of the CUDA runtime goes through here.
#pragma once

#include <cuda_runtime_api.h>

namespace moa_rt::cuda {

// Throws ResourceError where memory is short and DeviceError otherwise; the message names `what`.
void check(cudaError_t status, const char* what);

// Of the current device.
int device_attribute(cudaDeviceAttr attribute);

}  // namespace moa_rt::cuda
