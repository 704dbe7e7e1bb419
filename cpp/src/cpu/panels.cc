#include "cpu/panels.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/checked.h"
#include "core/message.h"
#include "cpu/kernels.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

std::int64_t checked_bytes(std::int64_t rows, std::int64_t cols, DType dtype) {
  const CheckedSize size = CheckedSize(static_cast<std::uint64_t>(rows)) *
                           static_cast<std::uint64_t>(cols) *
                           static_cast<std::uint64_t>(size_of(dtype));
  if (!size.valid() || size.value() > (std::uint64_t{1} << 62)) {
    throw ResourceError(describe({.item = "weight matrix",
                                  .field = "shape",
                                  .got = std::to_string(rows) + " x " + std::to_string(cols),
                                  .want = "a size below 2^62 bytes"}));
  }
  return static_cast<std::int64_t>(size.value());
}

// source (rows <= 16, cols) row-major -> one panel; Group k of an output lie side by side.
template <typename T, int Group>
void pack_panel(const T* source, std::int64_t rows, std::int64_t cols, T* panel) {
  for (std::int64_t k = 0; k < cols; k += Group) {
    for (std::int64_t r = 0; r < kPanelRows; ++r) {
      for (std::int64_t i = 0; i < Group; ++i) {
        *panel++ = r < rows && k + i < cols ? source[r * cols + k + i] : T{};
      }
    }
  }
}

void pack_block(const std::byte* source, std::int64_t rows, std::int64_t cols, DType dtype,
                std::byte* panel) {
  if (dtype == DType::kF32) {
    pack_panel<float, 1>(reinterpret_cast<const float*>(source), rows, cols,
                         reinterpret_cast<float*>(panel));
  } else {
    pack_panel<std::uint16_t, 2>(reinterpret_cast<const std::uint16_t*>(source), rows, cols,
                                 reinterpret_cast<std::uint16_t*>(panel));
  }
}

}  // namespace

PanelShape::PanelShape(std::int64_t matrix_rows, std::int64_t matrix_cols, DType dtype)
    : num_panels((matrix_rows + kPanelRows - 1) / kPanelRows),
      cols(dtype == DType::kF32 ? matrix_cols : (matrix_cols + 1) / 2 * 2),
      panel_stride(cols * kPanelRows),
      bytes(checked_bytes(num_panels * kPanelRows, cols, dtype)) {}

Matrix pack_matrix(Allocator& allocator, ThreadPool& pool, std::int64_t rows, std::int64_t cols,
                   DType dtype, const RowReader& reader) {
  const PanelShape shape(rows, cols, dtype);
  Matrix matrix{rows, cols, dtype, Storage(allocator, shape.bytes)};
  const std::int64_t row_bytes = cols * size_of(dtype);
  const std::int64_t panel_bytes = shape.panel_stride * size_of(dtype);
  // Blocks of about a mebibyte, whole panels each: all that loading needs beside the matrix.
  const std::int64_t block_panels =
      std::clamp<std::int64_t>((1 << 20) / (kPanelRows * row_bytes), 1, shape.num_panels);
  const Storage staging(allocator, block_panels * kPanelRows * row_bytes);
  for (std::int64_t first = 0; first < shape.num_panels; first += block_panels) {
    const std::int64_t row = first * kPanelRows;
    const std::int64_t count = std::min(block_panels * kPanelRows, rows - row);
    reader(row, count, {staging.data(), static_cast<std::size_t>(count * row_bytes)});
    pool.parallel_for((count + kPanelRows - 1) / kPanelRows, 1,
                      [&](std::int64_t begin, std::int64_t end, int) {
                        for (std::int64_t p = begin; p < end; ++p) {
                          pack_block(staging.data() + p * kPanelRows * row_bytes,
                                     std::min(kPanelRows, count - p * kPanelRows), cols, dtype,
                                     matrix.storage.data() + (first + p) * panel_bytes);
                        }
                      });
  }
  return matrix;
}

void unpack_row(const Matrix& matrix, std::int64_t row, float* out) {
  const PanelShape shape(matrix.rows, matrix.cols, matrix.dtype);
  const std::int64_t start = row / kPanelRows * shape.panel_stride;
  const std::int64_t lane = row % kPanelRows;
  if (matrix.dtype == DType::kF32) {
    const float* panel = reinterpret_cast<const float*>(matrix.storage.data()) + start;
    for (std::int64_t k = 0; k < matrix.cols; ++k) out[k] = panel[k * kPanelRows + lane];
    return;
  }
  const auto* panel = reinterpret_cast<const std::uint16_t*>(matrix.storage.data()) + start;
  for (std::int64_t k = 0; k < matrix.cols; ++k) {
    const std::uint32_t bits = panel[k / 2 * 2 * kPanelRows + 2 * lane + k % 2];
    out[k] = std::bit_cast<float>(bits << 16);
  }
}

}  // namespace moa_rt
