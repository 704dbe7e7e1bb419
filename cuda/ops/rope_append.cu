// Optional norm of query and key heads, rotary embedding (arXiv 2104.09864, rotate-half), and the
// append of decode rows to their caches. One warp a head of a row.
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/reduce.cuh"
#include "cuda/ops/ops.h"
#include "cuda/runtime/launch.h"
#include "moa_rt/span.h"

namespace moa_rt::cuda {
namespace {

constexpr int kWarps = 4;

// One head: D floats, as pairs (i, i + D / 2) held by lane i % 32.
template <int D>
struct Head {
  static constexpr int kPairs = (D / 2 + 31) / 32;
  float low[kPairs] = {};
  float high[kPairs] = {};

  __device__ static int pair(int i) { return static_cast<int>(threadIdx.x) % 32 + 32 * i; }

  __device__ explicit Head(const float* x) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (pair(i) >= D / 2) continue;
      low[i] = x[pair(i)];
      high[i] = x[pair(i) + D / 2];
    }
  }

  __device__ void norm(const float* weight, float eps) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) squares += low[i] * low[i] + high[i] * high[i];
    const float scale = 1.0f / sqrtf(sum_lanes(squares) / static_cast<float>(D) + eps);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (pair(i) >= D / 2) continue;
      low[i] *= scale * weight[pair(i)];
      high[i] *= scale * weight[pair(i) + D / 2];
    }
  }

  __device__ void rotate(const float* cos, const float* sin) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (pair(i) >= D / 2) continue;
      const float c = cos[pair(i)];
      const float s = sin[pair(i)];
      const float x = low[i];
      low[i] = x * c - high[i] * s;
      high[i] = high[i] * c + x * s;
    }
  }

  template <typename T>
  __device__ static void copy(const T* from, T* to) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (pair(i) >= D / 2) continue;
      to[pair(i)] = from[pair(i)];
      to[pair(i) + D / 2] = from[pair(i) + D / 2];
    }
  }

  template <typename T>
  __device__ void store(T* out) const {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (pair(i) >= D / 2) continue;
      out[pair(i)] = from_float<T>(low[i]);
      out[pair(i) + D / 2] = from_float<T>(high[i]);
    }
  }
};

template <typename T, int D>
__global__ void __launch_bounds__(kWarps * 32) rope_append(RopeKernelArgs args) {
  let_next_start();
  wait_for_inputs();
  const std::int64_t row = blockIdx.x;
  const int index = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const int heads = args.dims.query_heads;
  const int kv_heads = args.dims.kv_heads;
  if (index >= heads + 2 * kv_heads) return;
  const bool is_value = index >= heads + kv_heads;

  float* x = args.qkv + row * args.dims.qkv_width() + static_cast<std::int64_t>(index) * D;
  Head<D> head(x);
  const std::int64_t position = args.positions[row];
  if (!is_value) {
    const float* weight = index < heads ? args.query_norm : args.key_norm;
    if (weight != nullptr) head.norm(weight, args.norm_eps);
    head.rotate(args.cos + position * (D / 2), args.sin + position * (D / 2));
    head.store(x);
  }
  if (index < heads) return;
  const int kv_head = (index - heads) % kv_heads;
  const std::int64_t which = args.row_slices[row] * args.stride + kv_head;
  const Segment segment = args.segments[which];
  if (segment.count != 1) return;  // a prefilled chunk is appended after it has attended
  const HeadSpan span{segment.sink, segment.window};
  T* keys = reinterpret_cast<T*>(segment.keys);
  T* slot = keys + ((is_value ? span.span() : 0) + slot_of(span, position)) * D;
  if (segment.keep != 0) {
    Head<D>::copy(slot, reinterpret_cast<T*>(args.kept) + (which * 2 + (is_value ? 1 : 0)) * D);
  }
  head.store(slot);
}

}  // namespace

void launch_rope_append(const RopeKernelArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  dispatch_attention(args.dtype, args.dims.head_dim, [&](auto tag, auto dim) {
    using T = typename decltype(tag)::Type;
    const int heads = args.dims.query_heads + 2 * args.dims.kv_heads;
    const dim3 grid(static_cast<unsigned>(args.rows),
                    static_cast<unsigned>((heads + kWarps - 1) / kWarps));
    launch("rope_append", rope_append<T, decltype(dim)::value>, grid, kWarps * 32, 0, stream, args);
  });
}

}  // namespace moa_rt::cuda
