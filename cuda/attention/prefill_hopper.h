// Prefill attention on the matrix units of Hopper.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda/attention/attention.h"

namespace moa_rt::cuda {

// Launches and returns true where the current device and the head size allow it; false, having done
// nothing, where the portable kernel must serve.
bool launch_prefill_hopper(const PrefillArgs& args, cudaStream_t stream);

}  // namespace moa_rt::cuda
