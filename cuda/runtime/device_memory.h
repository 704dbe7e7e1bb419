// How much of a device's memory there is for us, and whether the device is still there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/runtime/device_context.h"
#include "moa_rt/types.h"

namespace moa_rt::cuda {

// Bytes that the driver takes once a process has used a device: its context, our kernels, those of
// cuBLASLt and the captured graphs. tests/cuda/cuda_memory_test.cc holds it to what the driver
// says.
std::int64_t device_runtime_bytes();

// What the driver says is free, and what of device_runtime_bytes() it has taken for the context.
std::int64_t free_device_bytes(const DeviceContext& context);

// Throws DeviceError if an error has ended the context of the stream, such as a kernel's fault: the
// driver then refuses everything to this process for good.
void check_device_alive(const Device& device, const DeviceContext& context, cudaStream_t stream);

}  // namespace moa_rt::cuda
