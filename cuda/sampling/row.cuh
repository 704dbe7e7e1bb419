// What a block does with one row of logits: reductions, keys that order candidates, and weights.
//
// Weights are fixed-point integers, so that sums do not depend on the order of the threads: the
// same row gives the same token, bit for bit, in any launch.
#pragma once

#include <cstdint>

#include "cuda/device/numeric.cuh"
#include "cuda/device/reduce.cuh"

namespace moa_rt::cuda::sampling {

inline constexpr int kThreads = 1024;
inline constexpr int kWarps = kThreads / 32;

__device__ inline int thread() { return static_cast<int>(threadIdx.x); }

inline constexpr int kMaxSums = 12;

__device__ inline std::uint64_t warp_sum(std::uint64_t x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(kAllLanes, static_cast<unsigned long long>(x), step);
  }
  return x;
}

// Reductions over the block; every thread gets the result.
class Block {
 public:
  __device__ explicit Block(std::uint64_t* scratch) : scratch_(scratch) {}

  // A place for one number of every warp.
  __device__ std::uint64_t* warp_numbers() { return scratch_; }

  template <typename Combine>
  __device__ std::uint64_t reduce(std::uint64_t x, Combine combine) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      x = combine(x, __shfl_xor_sync(kAllLanes, static_cast<unsigned long long>(x), step));
    }
    if (thread() % 32 == 0) scratch_[thread() / 32] = x;
    __syncthreads();
    x = scratch_[thread() % kWarps];
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      x = combine(x, __shfl_xor_sync(kAllLanes, static_cast<unsigned long long>(x), step));
    }
    __syncthreads();
    return x;
  }
  // Several sums for the price of one.
  template <int kCount>
  __device__ void sums(std::uint64_t (&x)[kCount]) {
    static_assert(kCount <= kMaxSums);
    const int lane = thread() % 32, warp = thread() / 32;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      x[i] = warp_sum(x[i]);
      if (lane == 0) scratch_[i * kWarps + warp] = x[i];
    }
    __syncthreads();
    if (warp < kCount) {
      const std::uint64_t all = warp_sum(scratch_[warp * kWarps + lane]);
      __syncwarp();
      if (lane == 0) scratch_[warp * kWarps] = all;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[i] = scratch_[i * kWarps];
    __syncthreads();
  }
  __device__ std::uint64_t sum(std::uint64_t x) {
    return reduce(x, [](std::uint64_t a, std::uint64_t b) { return a + b; });
  }
  __device__ std::uint64_t max(std::uint64_t x) {
    return reduce(x, [](std::uint64_t a, std::uint64_t b) { return a > b ? a : b; });
  }
  __device__ std::uint64_t min(std::uint64_t x) {
    return reduce(x, [](std::uint64_t a, std::uint64_t b) { return a < b ? a : b; });
  }

 private:
  std::uint64_t* scratch_;  // shared: (kMaxSums, kWarps)
};

// Floats as integers of the same order; both zeros are one.
__device__ inline std::uint32_t ordered(float x) {
  const std::uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float unordered(std::uint32_t bits) {
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

// Larger is better: by score, the lowest id first among equals.
inline constexpr int kIdBits = 21;
inline constexpr std::uint32_t kIdMask = (1u << kIdBits) - 1;
__device__ inline std::uint64_t key_of(float score, int id) {
  return static_cast<std::uint64_t>(ordered(score)) << kIdBits |
         (kIdMask - static_cast<std::uint32_t>(id));
}
__device__ inline float score_of(std::uint64_t key) {
  return unordered(static_cast<std::uint32_t>(key >> kIdBits));
}
__device__ inline int id_of(std::uint64_t key) {
  return static_cast<int>(kIdMask - (static_cast<std::uint32_t>(key) & kIdMask));
}

// Powers of two below the top from which on a weight is nothing.
inline constexpr double kWeightless = 45.0;

// exp((score - top) / temperature) * 2^43: up to 2^20 of them add up within 64 bits. About as exact
// as float32, and exactly 2^43 at the top.
struct Weigher {
  float top;
  double inverse;  // log2(e) / temperature
  double least;    // scores further below the top weigh nothing

  __device__ bool counts(float score) const {
    return static_cast<double>(score) - static_cast<double>(top) >= least;
  }
  __device__ std::uint64_t operator()(float score) const {
    const double below = static_cast<double>(score) - static_cast<double>(top);
    if (!(below >= least)) return 0;
    const double exponent = below * inverse;
    if (exponent < -kWeightless) return 0;
    const double whole = rint(exponent);
    const float part = exp2f(static_cast<float>(exponent - whole));
    return __float2ull_rn(part * __int_as_float((static_cast<int>(whole) + 43 + 127) << 23));
  }
};
inline constexpr double kWeightScale = 0x1.0p-43;

// A row of scores; calls body(key) for those of ids [begin, end).
struct WholeRow {
  const float* scores;
  int size;

  template <typename Body>
  __device__ void each(int begin, int end, Body body) const {
    end = end < size ? end : size;
#pragma unroll 4
    for (int i = begin + thread(); i < end; i += kThreads) body(key_of(scores[i], i));
  }
};

// A few of them, in any order.
struct KeyList {
  const std::uint64_t* keys;  // shared
  int size;

  template <typename Body>
  __device__ void each(int begin, int end, Body body) const {
    for (int i = thread(); i < size; i += kThreads) {
      const int id = id_of(keys[i]);
      if (id >= begin && id < end) body(keys[i]);
    }
  }
};

inline constexpr int kListSize = 4096;

// The keys of a row that `keep` wants; more than fit: -1, and the list is not to be used.
template <typename Keep>
__device__ int collect(const WholeRow& row, std::uint64_t* list, int* count, Keep keep) {
  __syncthreads();
  if (thread() == 0) *count = 0;
  __syncthreads();
  row.each(0, row.size, [&](std::uint64_t key) {
    if (!keep(key)) return;
    const int place = atomicAdd(count, 1);
    if (place < kListSize) list[place] = key;
  });
  __syncthreads();
  const int found = *count;
  return found <= kListSize ? found : -1;
}

// The largest key from which on the values add up to `target` or more; all of them do. Each pass
// leaves an eighth of what the answer may be.
template <typename Source, typename Value>
__device__ std::uint64_t find_cut(Block& block, const Source& source, std::uint64_t low,
                                  std::uint64_t high, std::uint64_t target, Value value) {
  constexpr int kTries = 7;
  while (low < high) {
    const std::uint64_t width = high - low;
    std::uint64_t tried[kTries], sums[kTries];
#pragma unroll
    for (int i = 0; i < kTries; ++i) {
      tried[i] = low + (width * static_cast<std::uint64_t>(i + 1) + kTries) / (kTries + 1);
      sums[i] = 0;
    }
    source.each(0, 1 << kIdBits, [&](std::uint64_t key) {
      if (key <= low) return;
      const std::uint64_t x = value(key);
#pragma unroll
      for (int i = 0; i < kTries; ++i) sums[i] += key >= tried[i] ? x : 0;
    });
    block.sums(sums);
    std::uint64_t from = low, below = tried[0];
#pragma unroll
    for (int i = 0; i < kTries; ++i) {
      if (sums[i] < target) continue;
      from = tried[i];
      below = i + 1 < kTries ? tried[i + 1] : high + 1;
    }
    low = from;
    high = below - 1;
  }
  return low;
}

// A key that at least `count` (at most kThreads) of the row reach, and not many more: the
// count-th best of every thread's best. All ids if the row is shorter than that.
__device__ inline std::uint64_t rough_cut(const WholeRow& row, int count) {
  std::uint64_t best = 0;
  row.each(0, row.size, [&](std::uint64_t key) { best = key > best ? key : best; });
  const auto mine = static_cast<std::uint32_t>(best >> kIdBits);
  std::uint32_t low = 0;
  std::uint32_t high = 0xffffffffu;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2 + 1;
    if (__syncthreads_count(mine >= middle) >= count) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return static_cast<std::uint64_t>(low) << kIdBits;
}

}  // namespace moa_rt::cuda::sampling
