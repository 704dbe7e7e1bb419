#include "cpu/matmul.h"

#include <algorithm>
#include <atomic>

#include "cpu/panels.h"

namespace moa_rt {
namespace {

// Rounding fewer elements than this is not worth waking the other threads.
constexpr std::int64_t kParallelElements = 32768;

struct MatmulJob {
  const CpuContext& cpu;
  const Matrix& weight;
  PanelShape panels;
  const std::byte* x;  // rows in operand form
  std::int64_t x_stride;
  std::int64_t x_element;  // bytes
  const float* bias;
  bool accumulate;
  float* out;
};

// Rows of x as the kernels take them; returns bytes per element.
std::int64_t prepare_operand(const CpuContext& cpu, const Tensor& x, const PanelShape& panels) {
  const std::int64_t rows = x.dim(0), cols = x.dim(1);
  const std::int64_t element = cpu.kernels.bf16_operand_size;
  auto* operand = static_cast<std::byte*>(cpu.workspace.operand());
  const auto round_rows = [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      cpu.kernels.round_operand(x.data<float>() + r * cols, cols, panels.cols,
                                operand + r * panels.cols * element);
    }
  };
  if (rows * cols < kParallelElements) {
    round_rows(0, rows, 0);
  } else {
    cpu.pool.parallel_for(rows, 1, round_rows);
  }
  return element;
}

// Rows [row, row + rows) times panels [panel, panel + num_panels), written to out.
void compute_tile(const MatmulJob& job, std::int64_t row, std::int64_t rows, std::int64_t panel,
                  std::int64_t num_panels, int thread) {
  const bool bf16 = job.weight.dtype == DType::kBF16;
  float* tile = job.cpu.workspace.tile(thread);
  const std::int64_t width = num_panels * kPanelRows;
  const PanelProduct product{.x = job.x + row * job.x_stride * job.x_element,
                             .x_stride = job.x_stride,
                             .rows = rows,
                             .panels = job.weight.storage.data() +
                                       panel * job.panels.panel_stride * size_of(job.weight.dtype),
                             .panel_stride = job.panels.panel_stride,
                             .num_panels = num_panels,
                             .cols = job.panels.cols,
                             .tile = tile,
                             .tile_stride = width,
                             .accumulate = false,
                             .scratch = bf16 ? job.cpu.workspace.widen(thread) : nullptr};
  (bf16 ? job.cpu.kernels.product_bf16 : job.cpu.kernels.product_f32)(product);

  const std::int64_t first = panel * kPanelRows;
  const std::int64_t count = std::min(width, job.weight.rows - first);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* sums = tile + r * width;
    float* out = job.out + (row + r) * job.weight.rows + first;
    if (job.bias != nullptr) {
      for (std::int64_t n = 0; n < count; ++n) sums[n] += job.bias[first + n];
    }
    if (job.accumulate) {
      for (std::int64_t n = 0; n < count; ++n) out[n] += sums[n];
    } else {
      std::copy_n(sums, count, out);
    }
  }
}

// Decode: each thread streams its share of the panels once.
void stream_panels(const MatmulJob& job, std::int64_t rows) {
  job.cpu.pool.parallel_for(
      job.panels.num_panels, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
        for (std::int64_t p = begin; p < end; p += kStreamPanels) {
          compute_tile(job, 0, rows, p, std::min(kStreamPanels, end - p), thread);
        }
      });
}

// Prefill: tiles of rows and panels, taken by whichever thread is free. A tile's result does not
// depend on who computes it.
void multiply_tiles(const MatmulJob& job, std::int64_t rows) {
  const std::int64_t row_blocks = (rows + kTileRows - 1) / kTileRows;
  // Equal blocks, multiples of every register tile's rows.
  const std::int64_t block = ((rows + row_blocks - 1) / row_blocks + 11) / 12 * 12;
  const std::int64_t panel_blocks = (job.panels.num_panels + kTilePanels - 1) / kTilePanels;
  std::atomic<std::int64_t> next{0};
  auto work = [&](int thread) {
    while (true) {
      const std::int64_t unit = next.fetch_add(1, std::memory_order_relaxed);
      if (unit >= row_blocks * panel_blocks) return;
      const std::int64_t row = unit % row_blocks * block;
      const std::int64_t panel = unit / row_blocks * kTilePanels;
      if (row >= rows) continue;
      compute_tile(job, row, std::min(block, rows - row), panel,
                   std::min(kTilePanels, job.panels.num_panels - panel), thread);
    }
  };
  job.cpu.pool.run(ThreadTask(work));
}

}  // namespace

void cpu_matmul(const CpuContext& cpu, const Tensor& x, const Matrix& weight, const Tensor* bias,
                bool accumulate, Tensor& out) {
  const std::int64_t rows = x.dim(0);
  cpu.workspace.require_rows(rows);
  cpu.workspace.require_cols(weight.cols);
  MatmulJob job{.cpu = cpu,
                .weight = weight,
                .panels = PanelShape(weight.rows, weight.cols, weight.dtype),
                .x = x.data<std::byte>(),
                .x_stride = x.dim(1),
                .x_element = size_of(DType::kF32),
                .bias = bias == nullptr ? nullptr : bias->data<float>(),
                .accumulate = accumulate,
                .out = out.data<float>()};
  if (weight.dtype == DType::kBF16) {
    job.x_element = prepare_operand(cpu, x, job.panels);
    job.x = static_cast<const std::byte*>(cpu.workspace.operand());
    job.x_stride = job.panels.cols;
  }
  if (rows <= kStreamRows) {
    stream_panels(job, rows);
  } else {
    multiply_tiles(job, rows);
  }
}

}  // namespace moa_rt
