// Owners of the CUDA runtime's handles. Each is destroyed with its owner and cannot be copied.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/runtime/check.h"
#include "cuda/runtime/cublas_lt.h"

namespace moa_rt::cuda {

// A handle with the function that destroys it.
template <typename Handle, auto Destroy>
class Owner {
 public:
  Owner() = default;
  explicit Owner(Handle handle) : handle_(handle) {}
  ~Owner() {
    if (handle_ != Handle{}) Destroy(handle_);
  }
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, Handle{})) {}
  Owner& operator=(Owner&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = {};
};

using Event = Owner<cudaEvent_t, &cudaEventDestroy>;
using Stream = Owner<cudaStream_t, &cudaStreamDestroy>;

template <typename Handle, auto Destroy>
void destroy_blas(Handle handle) {
  (cublas_lt().*Destroy)(handle);
}
template <typename Handle, auto Destroy>
using BlasOwner = Owner<Handle, &destroy_blas<Handle, Destroy>>;
using BlasHandle = BlasOwner<cublasLtHandle_t, &CublasLt::destroy>;
using BlasDescription = BlasOwner<cublasLtMatmulDesc_t, &CublasLt::destroy_description>;
using BlasLayout = BlasOwner<cublasLtMatrixLayout_t, &CublasLt::destroy_layout>;
using BlasPreference = BlasOwner<cublasLtMatmulPreference_t, &CublasLt::destroy_preference>;

// Waits for a stream where its scope ends, however it ends: for scopes and constructors that may
// leave by an exception while page-locked memory of theirs still travels.
class StreamWait {
 public:
  explicit StreamWait(cudaStream_t stream) : stream_(stream) {}
  ~StreamWait() { cudaStreamSynchronize(stream_); }
  StreamWait(const StreamWait&) = delete;
  StreamWait& operator=(const StreamWait&) = delete;

 private:
  cudaStream_t stream_;
};

Stream make_stream();
Event make_event();  // without timing

// Page-locked host memory.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::int64_t bytes);
  std::byte* data() const { return static_cast<std::byte*>(data_.get()); }
  std::int64_t bytes() const { return bytes_; }

 private:
  Owner<void*, &cudaFreeHost> data_;
  std::int64_t bytes_ = 0;
};

}  // namespace moa_rt::cuda
