// Every call of the CUDA runtime and every launch goes through here.
#pragma once

#include <cuda_runtime_api.h>

namespace moa_rt::cuda {

// Throws ResourceError where memory is short and DeviceError otherwise; the message names `what`.
void check(cudaError_t status, const char* what);

// After a launch.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace moa_rt::cuda
