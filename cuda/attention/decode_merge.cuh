// Decode attention: how warps become a block, and the blocks of a head its result. Always in order
// of warp and of chunk.
#pragma once

#include "cuda/attention/attention.h"
#include "cuda/device/reduce.cuh"
#include "cuda/device/softmax_state.cuh"

namespace moa_rt::cuda::decode {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * 32;
inline constexpr int kQueries = kQueriesPerItem;

// The four warps' shares in shared memory, and their union.
template <int D>
struct BlockShares {
  static constexpr int kStride = D + 4;  // floats; 4 modulo 32 banks or 20: no conflicts
  static constexpr int kBytes = kWarps * kQueries * (kStride + 2) * 4;
  float* sums;    // (kWarps, kQueries, kStride)
  float* states;  // (kWarps, kQueries, 2)

  __device__ explicit BlockShares(std::byte* shared)
      : sums(reinterpret_cast<float*>(shared)), states(sums + kWarps * kQueries * kStride) {}

  // share.state of query lane / 4; share.sums (D / 16, 4): fragments of (dim, query).
  template <typename Share>
  __device__ void store(const Share& share) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    if (lane % 4 == 0) {
      float* state = states + (warp * kQueries + lane / 4) * 2;
      state[0] = share.state.max;
      state[1] = share.state.sum;
    }
    const int query = (lane % 4) * 2;
    float* mine = sums + (warp * kQueries + query) * kStride + lane / 4;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      mine[step * 16] = share.sums[step][0];
      mine[step * 16 + kStride] = share.sums[step][1];
      mine[step * 16 + 8] = share.sums[step][2];
      mine[step * 16 + 8 + kStride] = share.sums[step][3];
    }
  }

  __device__ SoftmaxState merge(int query, int dim, float& sum) const {
    SoftmaxState whole;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      whole.max = fmaxf(whole.max, states[(warp * kQueries + query) * 2]);
    }
    sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const float* state = states + (warp * kQueries + query) * 2;
      const float weight = merge_weight(state[0], whole.max);
      whole.sum += weight * state[1];
      sum += weight * sums[(warp * kQueries + query) * kStride + dim];
    }
    return whole;
  }
};

// Merges the chunks of an item's queries: the weight of every chunk first, then the weighted sums
// of four dims a thread. Where threads are left over they share the chunks of a sum. The order of
// additions depends on the number of chunks and queries alone.
template <int D>
class ChunkMerge {
 public:
  static constexpr int kBytes = (kThreads * 4 + kQueries + kMaxChunks * kQueries) * 4;

  __device__ ChunkMerge(const DecodeArgs& args, const DecodeItem& item, std::byte* shared)
      : chunks_(item.chunks),
        queries_(item.queries),
        states_(reinterpret_cast<const float2*>(args.partial_states) +
                static_cast<std::int64_t>(item.first_partial) * kQueries),
        sums_(reinterpret_cast<const float4*>(args.partial_sums) +
              static_cast<std::int64_t>(item.first_partial) * kQueries * (D / 4)),
        parts_(reinterpret_cast<float4*>(shared)),
        totals_(reinterpret_cast<float*>(parts_ + kThreads)),
        weights_(totals_ + kQueries) {}

  __device__ void run(float* out) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    for (int query = static_cast<int>(threadIdx.x) / 32; query < queries_; query += kWarps) {
      weigh(query, lane);
    }
    __syncthreads();
    const int units = queries_ * (D / 4);
    if (units <= kThreads / 2) {
      sum_shared(units, out);
      return;
    }
    for (int unit = static_cast<int>(threadIdx.x); unit < units; unit += kThreads) {
      store(out, unit, sum(unit, 0, 1));
    }
  }

 private:
  // One warp: weights of a query's chunks and their total.
  __device__ void weigh(int query, int lane) {
    float max = -kInfinity;
    for (int c = lane; c < chunks_; c += 32) {
      max = fmaxf(max, __ldcg(states_ + c * kQueries + query).x);
    }
    max = max_lanes(max);
    float total = 0.0f;
    for (int c = lane; c < chunks_; c += 32) {
      const float2 state = __ldcg(states_ + c * kQueries + query);
      const float weight = merge_weight(state.x, max);
      weights_[c * queries_ + query] = weight;
      total += weight * state.y;
    }
    total = sum_lanes(total);
    if (lane == 0) totals_[query] = total;
  }

  // Weighted sum of chunks first, first + step, ...
  __device__ float4 sum(int unit, int first, int step) const {
    const int query = unit / (D / 4);
    const float4* source = sums_ + query * (D / 4) + unit % (D / 4);
    float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 8
    for (int c = first; c < chunks_; c += step) {
      const float4 x = __ldcg(source + static_cast<std::int64_t>(c) * kQueries * (D / 4));
      const float weight = weights_[c * queries_ + query];
      total.x += weight * x.x;
      total.y += weight * x.y;
      total.z += weight * x.z;
      total.w += weight * x.w;
    }
    return total;
  }

  // As many threads a unit as there are.
  __device__ void sum_shared(int units, float* out) {
    const int thread = static_cast<int>(threadIdx.x);
    const int shares = kThreads / units;
    if (thread < shares * units) parts_[thread] = sum(thread % units, thread / units, shares);
    __syncthreads();
    if (thread >= units) return;
    float4 total = parts_[thread];
    for (int share = 1; share < shares; ++share) {
      const float4 x = parts_[share * units + thread];
      total.x += x.x;
      total.y += x.y;
      total.z += x.z;
      total.w += x.w;
    }
    store(out, thread, total);
  }

  __device__ void store(float* out, int unit, float4 total) const {
    const float whole = totals_[unit / (D / 4)];
    reinterpret_cast<float4*>(out)[unit] =
        float4{total.x / whole, total.y / whole, total.z / whole, total.w / whole};
  }

  int chunks_;
  int queries_;
  const float2* states_;  // (chunks, kQueries)
  const float4* sums_;    // (chunks, kQueries, D / 4)
  float4* parts_;         // shared: (kThreads)
  float* totals_;         // shared: (kQueries)
  float* weights_;        // shared: (chunks, queries)
};

// Whether this block is the last of its item's chunks. Leaves the counter at 0 for the next launch.
__device__ inline bool arrive_last(std::int32_t* counter, int chunks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(counter, 1) == chunks - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace moa_rt::cuda::decode
