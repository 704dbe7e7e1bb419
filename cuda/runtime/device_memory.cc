#include "cuda/runtime/device_memory.h"

#include "core/message.h"
#include "cuda/runtime/check.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

// An H100 with CUDA 13.0 (driver 580): 533 MiB are taken in all once a small model has worked, 6 of
// them for its code and graphs; larger shapes load more of cuBLASLt.
constexpr std::int64_t kContextBytes = std::int64_t{527} << 20;
constexpr std::int64_t kCodeBytes = std::int64_t{64} << 20;

}  // namespace

std::int64_t device_runtime_bytes() { return kContextBytes + kCodeBytes; }

std::int64_t free_device_bytes(const DeviceContext& context) {
  const DeviceGuard guard(context);
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  return static_cast<std::int64_t>(free) + kContextBytes;
}

void check_device_alive(const Device& device, const DeviceContext& context, cudaStream_t stream) {
  const DeviceGuard guard(context, std::nothrow);
  const cudaError_t status =
      guard.status() != cudaSuccess ? guard.status() : cudaStreamQuery(stream);
  if (status == cudaSuccess || status == cudaErrorNotReady) {
    cudaGetLastError();  // "not ready" is an answer, not an error
    return;
  }
  throw DeviceError(describe({.item = device_name(device),
                              .got = "lost, after an error that ended every engine of this process "
                                     "on it",
                              .want = "a new process",
                              .note = cudaGetErrorString(status)}));
}

}  // namespace moa_rt::cuda
