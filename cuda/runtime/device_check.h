// Whether a CUDA device can run this build: asked before anything is read or allocated (G14).
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "moa_rt/types.h"

namespace moa_rt::cuda {

// What the driver says of a device. Apart from the judgement, so that a test can make up machines.
struct DeviceFacts {
  int driver_version = 0;   // newest CUDA that the driver knows, 13000 for 13.0; 0: no driver
  int runtime_version = 0;  // CUDA that this build carries
  cudaError_t status = cudaSuccess;  // of counting devices
  int count = 0;
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  cudaError_t code = cudaSuccess;  // of finding machine code or PTX for it in this build
};

// Makes the context of the device if all is well with it. Throws DeviceError if it cannot,
// ResourceError if memory is short.
DeviceFacts ask_device(const Device& device);

// "cuda:0 (NVIDIA H100 80GB HBM3, compute capability 9.0)". Throws DeviceError with got and want.
std::string judge_device(const Device& device, const DeviceFacts& facts);

}  // namespace moa_rt::cuda
