// Stands in for cuda/ in a build without it, so that no caller needs an #ifdef.
#include "core/message.h"
#include "moa_rt/error.h"
#include "ops/backend.h"

namespace moa_rt {

std::unique_ptr<Backend> make_cuda_backend(const Device& device) {
  throw DeviceError(describe({.item = "device",
                              .got = device_name(device),
                              .want = "cpu",
                              .note = "this build has no CUDA"}));
}

}  // namespace moa_rt
