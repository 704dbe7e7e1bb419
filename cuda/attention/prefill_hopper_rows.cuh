// The query rows of a multiplying warpgroup of the Hopper prefill kernel: scores, softmax, sums.
#pragma once

#include "cuda/attention/prefill_hopper_work.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/softmax_state.cuh"

namespace moa_rt::cuda::hopper {

// A multiplying warpgroup's 64 rows; half h of this lane is row base + 8 h.
template <typename T, int D>
struct GroupRows {
  static constexpr int kSums = D / 2;  // accumulators of a thread

  SoftmaxState state[2];
  float sums[kSums] = {};
  int first_row;
  int row[2];
  int position[2];
  int low;  // positions of the group's first and last query
  int high;

  __device__ explicit GroupRows(int group) {
    const int thread = static_cast<int>(threadIdx.x) % kGroupThreads;
    first_row = group * 64;
    for (int half = 0; half < 2; ++half) {
      row[half] = first_row + thread / 32 * 16 + thread % 32 / 4 + half * 8;
    }
  }

  // Where an item's queries are; what was summed so far stays.
  __device__ void place(RowMap map, int first_position) {
    const int last = map.tokens - 1;
    for (int half = 0; half < 2; ++half) {
      position[half] = first_position + min(map.token(row[half]), last);
    }
    low = first_position + min(map.token(first_row), last);
    high = first_position + min(map.token(first_row + 63), last);
  }
  __device__ void reset() {
    state[0] = {};
    state[1] = {};
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
  }

  template <int Scores>
  __device__ void start_scores(std::uint32_t queries, std::uint32_t keys, float (&scores)[Scores]) {
    pin(scores);
    begin_products();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const auto at = static_cast<std::uint32_t>(step / 4 * Shape<D>::kHalfBytes + step % 4 * 32);
      product<T>(scores, matrix_operand(queries + at, 16), matrix_operand(keys + at, 16), step > 0);
    }
    commit_products();
  }

  __device__ bool sees_all(KeyHalf half, int sink, int window) const {
    const int last = half.first + kHalf - 1;
    return half.count == kHalf && last <= low && (last < sink || high - half.first < window);
  }

  // The scores of half a tile, `lead` the first of them: two compares and one choice a key where
  // the compiler can, since columns are constants.
  template <int Lead>
  __device__ void mask(KeyHalf half, int sink, int window, float (&scores)[kKeys / 2]) const {
    const int column = (static_cast<int>(threadIdx.x) % 4) * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = position[r] - half.first - column;  // of the query, counted in columns
      const int end = min(half.count - column, at + 1);
      const int sink_end = sink - half.first - column;
      const int begin = at - window + 1;
#pragma unroll
      for (int i = 2 * r; i < kHalf / 2; i += 4) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int key = i / 4 * 8 + j;
          if (key >= end || (key >= sink_end && key < begin)) scores[Lead + i + j] = -kInfinity;
        }
      }
    }
  }

  // Scores become exp2((score - max) * scale). Returns what brings the sums so far to the new
  // maximum.
  template <int Scores>
  __device__ float2 exponentials(float (&scores)[Scores]) {
    const float scale = kLog2E * rsqrtf(static_cast<float>(D));
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float best = -kInfinity;
#pragma unroll
      for (int i = 2 * half; i < Scores; i += 4) {
        best = fmaxf(best, fmaxf(scores[i], scores[i + 1]));
      }
      factors[half] = state[half].raise(max_lanes<4>(best) * scale);
      const float shift = state[half].shift();
      float sum = 0.0f;
#pragma unroll
      for (int i = 2 * half; i < Scores; i += 4) {
        scores[i] = exp2_approx(fmaf(scores[i], scale, -shift));
        scores[i + 1] = exp2_approx(fmaf(scores[i + 1], scale, -shift));
        sum += scores[i] + scores[i + 1];
      }
      state[half].sum += sum;
    }
    return {factors[0], factors[1]};
  }

  __device__ void rescale(float2 factors) {
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      sums[i] *= factors.x;
      sums[i + 1] *= factors.x;
      sums[i + 2] *= factors.y;
      sums[i + 3] *= factors.y;
    }
  }

  template <int Steps>
  __device__ void start_sums(std::uint32_t values, const std::uint32_t (&p)[Steps][4]) {
    pin(sums);
    begin_products();
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
      product_transposed<T>(sums, p[step],
                            matrix_operand(values + static_cast<std::uint32_t>(step * 16 * 128),
                                           Shape<D>::kHalfBytes));
    }
    commit_products();
  }

  __device__ void store(RowMap map, float* out, std::int64_t row_stride) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = 1.0f / sum_lanes<4>(state[half].sum);
      if (!map.valid(row[half])) continue;
      float* target = out + map.token(row[half]) * row_stride + (row[half] % map.group) * D +
                      (threadIdx.x % 4) * 2;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        *reinterpret_cast<float2*>(target + i * 8) =
            float2{sums[4 * i + 2 * half] * factor, sums[4 * i + 2 * half + 1] * factor};
      }
    }
  }
};

}  // namespace moa_rt::cuda::hopper
