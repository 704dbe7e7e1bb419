// Launches of kernels. An error is that of this launch: asking for the last error of the thread
// would blame a kernel for whatever failed before it, here or in the program around us.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "cuda/runtime/check.h"

namespace moa_rt::cuda {

// Whether the code that the current device runs was compiled to wait for its inputs: sm_90 or later
// both as compiled and as a device.
inline bool starts_early() {
  constexpr int kFirst = 900;
  constexpr int kCompiledFor[] = {__CUDA_ARCH_LIST__};
  bool compiled = false;
  for (const int architecture : kCompiledFor) compiled = compiled || architecture >= kFirst;
  return compiled && device_attribute(cudaDevAttrComputeCapabilityMajor) * 100 >= kFirst;
}

inline cudaLaunchConfig_t launch_config(dim3 grid, int threads, std::size_t shared_bytes,
                                        cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return config;
}

// Of a kernel that knows how to start early (device/dependency.cuh), on the current device. `name`
// is what errors call the kernel.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads,
            std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = launch_config(grid, threads, shared_bytes, stream);
  config.attrs = &early;
  config.numAttrs = starts_early() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

// Of any other: it starts when all that is before it in the stream has ended.
template <typename... Parameters, typename... Arguments>
void launch_in_order(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads,
                     std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  const cudaLaunchConfig_t config = launch_config(grid, threads, shared_bytes, stream);
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace moa_rt::cuda
