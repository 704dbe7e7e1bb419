#include "cuda/runtime/device_check.h"

#include "core/message.h"
#include "cuda/runtime/check.h"
#include "cuda/runtime/device_code.h"
#include "cuda/runtime/device_context.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

constexpr int kOldestMajor = 8;  // bf16 matrix units and asynchronous copies

// 13000 is 13.0, 12090 is 12.9.
std::string cuda_version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string capability(const DeviceFacts& facts) {
  return std::to_string(facts.major) + "." + std::to_string(facts.minor);
}

[[noreturn]] void refuse_driver(const std::string& device, const DeviceFacts& facts) {
  const std::string driver =
      facts.driver_version == 0 ? "none" : "one for CUDA " + cuda_version(facts.driver_version);
  throw DeviceError(
      describe({.item = device,
                .field = "NVIDIA driver",
                .got = driver,
                .want = "one for CUDA " + cuda_version(facts.runtime_version) + " or later",
                .note = cudaGetErrorString(facts.status)}));
}

}  // namespace

DeviceFacts ask_device(const Device& device) {
  DeviceFacts facts;
  cudaRuntimeGetVersion(&facts.runtime_version);
  if (cudaDriverGetVersion(&facts.driver_version) != cudaSuccess) facts.driver_version = 0;
  facts.status = cudaGetDeviceCount(&facts.count);
  cudaGetLastError();  // what was found out must not fail a later call
  if (facts.status != cudaSuccess || device.index >= facts.count) return facts;
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, device.index), "device properties");
  facts.name = properties.name;
  facts.major = properties.major;
  facts.minor = properties.minor;
  if (facts.major < kOldestMajor) return facts;
  const DeviceContext context(device.index);
  const DeviceGuard guard(context);
  facts.code = find_device_code();
  cudaGetLastError();
  return facts;
}

std::string judge_device(const Device& device, const DeviceFacts& facts) {
  const std::string name = device_name(device);
  if (facts.driver_version == 0 || facts.status == cudaErrorInsufficientDriver ||
      facts.status == cudaErrorStubLibrary) {
    refuse_driver(name, facts);
  }
  if (facts.status != cudaSuccess || device.index >= facts.count) {
    const int count = facts.status == cudaSuccess ? facts.count : 0;
    throw DeviceError(describe(
        {.item = "device",
         .got = name,
         .want = count == 0 ? "a GPU, and none can be used"
                            : "cuda:0" + (count == 1 ? "" : "..cuda:" + std::to_string(count - 1)),
         .note = facts.status == cudaSuccess ? "" : cudaGetErrorString(facts.status)}));
  }
  if (facts.major < kOldestMajor) {
    throw DeviceError(describe({.item = name,
                                .field = "compute capability",
                                .got = capability(facts),
                                .want = "8.0 or later",
                                .note = facts.name}));
  }
  if (facts.code == cudaErrorNoKernelImageForDevice || facts.code == cudaErrorInvalidKernelImage ||
      facts.code == cudaErrorUnsupportedPtxVersion) {
    throw DeviceError(describe(
        {.item = name,
         .field = "compute capability",
         .got = capability(facts),
         .want = "one of those that this build was compiled for",
         .note = std::string(cudaGetErrorString(facts.code)) +
                 "; build with -DMOA_RT_CUDA_ARCHITECTURES=" + std::to_string(facts.major) +
                 std::to_string(facts.minor)}));
  }
  check(facts.code, "code of the device");
  return name + " (" + facts.name + ", compute capability " + capability(facts) + ")";
}

}  // namespace moa_rt::cuda
