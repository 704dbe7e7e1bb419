// Launches of kernels that know how to start early (device/dependency.cuh).
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
  int device = 0;
  int major = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "device");
  return compiled && major * 100 >= kFirst;
}

// On the current device. `name` is what errors call the kernel.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads,
            std::size_t shared_bytes, cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = starts_early() ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace moa_rt::cuda
