#include "cuda/runtime/handles.h"

namespace moa_rt::cuda {

Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return Stream(stream);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
  return Event(event);
}

PinnedBuffer::PinnedBuffer(std::int64_t bytes) : bytes_(bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, static_cast<std::size_t>(bytes)), "page-locked memory");
  data_ = Owner<void*, &cudaFreeHost>(data);
}

}  // namespace moa_rt::cuda
