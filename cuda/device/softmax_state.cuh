// Online softmax of one query (arXiv 1805.02867): running maximum and sum of exponentials, in base
// 2. Two states over disjoint keys merge into the state over their union.
#pragma once

#include "cuda/device/numeric.cuh"

namespace moa_rt::cuda {

struct SoftmaxState {
  float max = -kInfinity;
  float sum = 0.0f;

  // Takes in keys whose largest score is `score`; returns the factor that brings what was summed so
  // far to the new maximum. Without any visible key yet the maximum stays -infinity.
  __device__ float raise(float score) {
    const float raised = fmaxf(max, score);
    const float factor = max == -kInfinity ? 0.0f : exp2_approx(max - raised);
    max = raised;
    sum *= factor;
    return factor;
  }
  // What to subtract from scores before exp2: finite even where nothing is visible.
  __device__ float shift() const { return max == -kInfinity ? 0.0f : max; }
};

// Weight of a part with maximum `part` in a union with maximum `whole`.
__device__ inline float merge_weight(float part, float whole) {
  return part == -kInfinity ? 0.0f : exp2_approx(part - whole);
}

}  // namespace moa_rt::cuda
