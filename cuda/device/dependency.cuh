// Overlap of a kernel's start with the end of the one before (programmatic dependent launch). A
// kernel launched with launch() of runtime/launch.h may begin while its predecessor still runs: up
// to wait_for_inputs() it may read nothing that an earlier kernel of the step writes, and it may
// write nothing. Every such kernel waits, so that whatever ran before its predecessor is done too.
#pragma once

namespace moa_rt::cuda {

__device__ inline void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel's blocks may take the places that become free.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace moa_rt::cuda
