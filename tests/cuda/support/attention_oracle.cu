#include <math_constants.h>

#include <stdexcept>

#include "support/attention_oracle.h"

namespace moa_rt::testing {
namespace {

constexpr int kThreads = 128;

struct View {
  int query_heads, kv_heads, head_dim;
  const int* sinks;
  const int* windows;
  const float* qkv;
  int first;
  double* out;
};

__device__ double score(const View& v, const float* query, const float* key) {
  double sum = 0.0;
  for (int d = 0; d < v.head_dim; ++d) sum += static_cast<double>(query[d]) * key[d];
  return sum / sqrt(static_cast<double>(v.head_dim));
}

__global__ void oracle(View v) {
  __shared__ double shared[kThreads];
  const int q = v.first + static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int kv_head = head / (v.query_heads / v.kv_heads);
  const std::int64_t width = static_cast<std::int64_t>(v.query_heads + 2 * v.kv_heads) * v.head_dim;
  const float* query = v.qkv + q * width + head * v.head_dim;
  const float* keys = v.qkv + (v.query_heads + kv_head) * v.head_dim;
  const float* values = keys + v.kv_heads * v.head_dim;
  const int sink = v.sinks[kv_head];
  const int window = v.windows[kv_head];
  const auto seen = [&](int k) { return k <= q && (k < sink || q - k < window); };
  const int thread = static_cast<int>(threadIdx.x);

  double max = -CUDART_INF;
  for (int k = thread; k <= q; k += kThreads) {
    if (seen(k)) max = fmax(max, score(v, query, keys + k * width));
  }
  shared[thread] = max;
  __syncthreads();
  for (int i = 0; i < kThreads; ++i) max = fmax(max, shared[i]);
  __syncthreads();

  double sum = 0.0;
  double weighted = 0.0;
  for (int begin = 0; begin <= q; begin += kThreads) {
    const int k = begin + thread;
    shared[thread] = k <= q && seen(k) ? exp(score(v, query, keys + k * width) - max) : 0.0;
    __syncthreads();
    for (int i = 0; i < kThreads && begin + i <= q; ++i) {
      sum += shared[i];
      if (thread < v.head_dim) weighted += shared[i] * values[(begin + i) * width + thread];
    }
    __syncthreads();
  }
  if (thread < v.head_dim) {
    v.out[(static_cast<std::int64_t>(blockIdx.x) * v.query_heads + head) * v.head_dim + thread] =
        weighted / sum;
  }
}

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

// A vector's copy on the device.
template <typename T>
class Copy {
 public:
  explicit Copy(const std::vector<T>& values) : Copy(values.size()) {
    check(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  explicit Copy(std::size_t count) { check(cudaMalloc(&data_, count * sizeof(T))); }
  ~Copy() { cudaFree(data_); }
  Copy(const Copy&) = delete;
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

}  // namespace

std::vector<double> attention_by_definition(const OracleProblem& p) {
  const Copy<float> qkv(*p.qkv);
  const Copy<int> sinks(p.sinks);
  const Copy<int> windows(p.windows);
  std::vector<double> out(static_cast<std::size_t>(p.count) * p.query_heads * p.head_dim);
  const Copy<double> device_out(out.size());
  const dim3 grid(static_cast<unsigned>(p.count), static_cast<unsigned>(p.query_heads));
  oracle<<<grid, kThreads>>>({p.query_heads, p.kv_heads, p.head_dim, sinks.get(), windows.get(),
                              qkv.get(), p.first, device_out.get()});
  check(cudaGetLastError());
  check(cudaMemcpy(out.data(), device_out.get(), out.size() * sizeof(double),
                   cudaMemcpyDeviceToHost));
  return out;
}

}  // namespace moa_rt::testing
