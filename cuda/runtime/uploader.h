// Small host arrays to the device, in order of the stream, without waiting for it.
#pragma once

#include <cstdint>

#include "cuda/runtime/handles.h"

namespace moa_rt::cuda {

// Copies through page-locked memory that is written front to back; when it is full the stream is
// waited for once and writing starts anew.
class Uploader {
 public:
  Uploader() = default;
  Uploader(std::int64_t bytes, cudaStream_t stream) : buffer_(bytes), stream_(stream) {}

  void upload(void* target, const void* source, std::int64_t bytes);
  std::int64_t waits() const { return waits_; }  // for the stream, so far

 private:
  PinnedBuffer buffer_;
  cudaStream_t stream_ = nullptr;
  std::int64_t used_ = 0;
  std::int64_t waits_ = 0;
};

}  // namespace moa_rt::cuda
