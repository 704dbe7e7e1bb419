// Log-probabilities of given tokens: one block a row, one pass over it.
//
// Every thread keeps a running maximum and the sum of exponentials below it, and the block merges
// them in a fixed order: the same row gives the same bits in any launch.
#include "cuda/device/dependency.cuh"
#include "cuda/device/numeric.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/ops/ops.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
static_assert(kWarps == 32);  // one warp merges them
constexpr int kBatch = 8;     // loads under way
constexpr float kLargest = 3.402823466e+38f;
constexpr int kNone = 0x7fffffff;

// The maximum of what was taken and the sum of exp(x - max); the first place that holds no logit.
struct Part {
  float max = -kInfinity;
  float sum = 0.0f;
  int bad = kNone;

  __device__ void take(const float (&x)[kBatch], int first, int step) {
    float best = max;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (x[i] <= kLargest) {
        best = fmaxf(best, x[i]);
      } else {
        bad = min(bad, first + i * step);
      }
    }
    if (best == -kInfinity) return;
    sum *= expf(max - best);
    max = best;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum += expf(x[i] - best);
  }

  __device__ void merge(float other_max, float other_sum, int other_bad) {
    const float best = fmaxf(max, other_max);
    if (best != -kInfinity) {
      // Both lanes of a pair add in the same order.
      const float mine = sum * expf(max - best);
      const float other = other_sum * expf(other_max - best);
      sum = mine + other;
    }
    max = best;
    bad = min(bad, other_bad);
  }

  __device__ void merge_lanes() {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      merge(__shfl_xor_sync(kAllLanes, max, step), __shfl_xor_sync(kAllLanes, sum, step),
            __shfl_xor_sync(kAllLanes, bad, step));
    }
  }
};

__device__ LogitFault fault_of(const Part& row, const float* logits) {
  if (row.bad != kNone) {
    return isnan(logits[row.bad]) ? LogitFault::kNotANumber : LogitFault::kInfinite;
  }
  return row.max == -kInfinity ? LogitFault::kNothingLeft : LogitFault::kNone;
}

__global__ void __launch_bounds__(kThreads)
    token_logprobs(const float* logits, const std::int32_t* tokens, std::int64_t vocab,
                   RowLogprob* out) {
  __shared__ float max[kWarps], sum[kWarps];
  __shared__ int bad[kWarps];
  wait_for_inputs();
  const std::int64_t index = blockIdx.x;
  const float* row = logits + index * vocab;
  const int size = static_cast<int>(vocab);
  const int thread = static_cast<int>(threadIdx.x);

  Part part;
  for (int begin = thread; begin < size; begin += kBatch * kThreads) {
    float x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int place = begin + i * kThreads;
      x[i] = place < size ? row[place] : -kInfinity;
    }
    part.take(x, begin, kThreads);
  }
  part.merge_lanes();
  if (thread % 32 == 0) {
    max[thread / 32] = part.max;
    sum[thread / 32] = part.sum;
    bad[thread / 32] = part.bad;
  }
  __syncthreads();
  if (thread >= 32) return;
  part = {max[thread], sum[thread], bad[thread]};
  part.merge_lanes();
  if (thread != 0) return;

  RowLogprob result;
  result.fault = fault_of(part, row);
  if (result.fault == LogitFault::kNone) {
    const double total = static_cast<double>(part.max) + log(static_cast<double>(part.sum));
    result.logprob = static_cast<float>(static_cast<double>(row[tokens[index]]) - total);
  } else if (part.bad != kNone) {
    result.faulty = part.bad;
  }
  out[index] = result;
}

}  // namespace

void launch_token_logprobs(const float* logits, const std::int32_t* tokens, std::int64_t rows,
                           std::int64_t vocab, RowLogprob* out, cudaStream_t stream) {
  if (rows == 0) return;
  launch("token_logprobs", token_logprobs, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream,
         logits, tokens, vocab, out);
}

}  // namespace moa_rt::cuda
