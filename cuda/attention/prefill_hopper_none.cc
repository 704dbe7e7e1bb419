// Stands in for prefill_hopper.cu in a build without sm_90a.
#include "cuda/attention/prefill_hopper.h"

namespace moa_rt::cuda {

bool launch_prefill_hopper(const PrefillArgs&, cudaStream_t) { return false; }

}  // namespace moa_rt::cuda
