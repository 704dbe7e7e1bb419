#include "cuda/runtime/uploader.h"

#include <algorithm>
#include <cstring>

#include "moa_rt/span.h"

namespace moa_rt::cuda {

void Uploader::upload(void* target, const void* source, std::int64_t bytes) {
  while (bytes > 0) {
    if (used_ == buffer_.bytes()) {
      check(cudaStreamSynchronize(stream_), "upload");
      used_ = 0;
      ++waits_;
    }
    const std::int64_t now = std::min(bytes, buffer_.bytes() - used_);
    std::byte* staged = buffer_.data() + used_;
    std::memcpy(staged, source, static_cast<std::size_t>(now));
    check(cudaMemcpyAsync(target, staged, static_cast<std::size_t>(now), cudaMemcpyHostToDevice,
                          stream_),
          "upload");
    used_ = std::min(round_up(used_ + now, 16), buffer_.bytes());
    target = static_cast<std::byte*>(target) + now;
    source = static_cast<const std::byte*>(source) + now;
    bytes -= now;
  }
}

}  // namespace moa_rt::cuda
