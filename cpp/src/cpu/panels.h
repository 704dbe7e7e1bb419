// The layout of a weight matrix: panels of 16 outputs, made once at load and streamed by decode and
// prefill alike.
//   float32  (ceil(N / 16), K, 16)
//   bf16     (ceil(N / 16), ceil(K / 2), 16, 2)   pairs of k, as vdpbf16ps takes them
// A 64-byte line holds 16 outputs; what N and K lack is zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/allocator.h"
#include "core/parallel.h"
#include "ops/backend.h"

namespace moa_rt {

struct PanelShape {
  PanelShape(std::int64_t rows, std::int64_t cols, DType dtype);

  std::int64_t num_panels;
  std::int64_t cols;          // K, rounded up to even for bf16
  std::int64_t panel_stride;  // elements
  std::int64_t bytes;
};

Matrix pack_matrix(Allocator& allocator, ThreadPool& pool, std::int64_t rows, std::int64_t cols,
                   DType dtype, const RowReader& reader);

// out (cols) = row `row` as float32.
void unpack_row(const Matrix& matrix, std::int64_t row, float* out);

}  // namespace moa_rt
