// Products with packed weight panels, spread over the threads.
#pragma once

#include "core/tensor.h"
#include "cpu/context.h"
#include "ops/backend.h"

namespace moa_rt {

// See Backend::matmul. In bf16, x is rounded to bf16 (nearest even) first.
void cpu_matmul(const CpuContext& cpu, const Tensor& x, const Matrix& weight, const Tensor* bias,
                bool accumulate, Tensor& out);

}  // namespace moa_rt
