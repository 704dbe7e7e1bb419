#include "cpu/kv_rows.h"

#include <algorithm>
#include <cstring>

namespace moa_rt {
namespace {

// Rotating fewer elements than this is not worth waking the other threads.
constexpr std::int64_t kParallelElements = 32768;

void store_row(const CpuKernels& kernels, const float* source, std::int64_t head_dim, DType dtype,
               std::byte* segment, std::int64_t slot) {
  std::byte* target = segment + slot * head_dim * size_of(dtype);
  if (dtype == DType::kF32) {
    std::memcpy(target, source, static_cast<std::size_t>(head_dim * size_of(dtype)));
  } else {
    kernels.narrow_bf16(source, head_dim, reinterpret_cast<std::uint16_t*>(target));
  }
}

// Norm, if any, and rotation of one row's query and key heads.
void rotate_row(const CpuKernels& kernels, const Backend::RopeArgs& args, std::int64_t position,
                float* row) {
  const AttentionShape& shape = args.shape;
  const std::int64_t half = shape.head_dim / 2;
  const float* cos = args.rope->cos.data<float>() + position * half;
  const float* sin = args.rope->sin.data<float>() + position * half;
  for (std::int64_t h = 0; h < shape.num_query_heads + shape.num_kv_heads; ++h) {
    float* head = row + h * shape.head_dim;
    const Tensor* norm = h < shape.num_query_heads ? args.query_norm : args.key_norm;
    if (norm != nullptr) {
      kernels.rms_norm(head, norm->data<float>(), shape.head_dim, static_cast<float>(args.norm_eps),
                       head);
    }
    kernels.rope(head, cos, sin, half);
  }
}

}  // namespace

void append_head(const CpuKernels& kernels, const QkvRow& row, const SequenceSlice& slice,
                 std::int64_t layer, std::int64_t head, const Tensor& qkv) {
  const HeadSegment segment = slice.cache->segment(layer, head);
  const DType dtype = slice.cache->layout().dtype();
  const std::int64_t end = slice.position + slice.count;
  const std::int64_t window_begin = std::max(segment.head.sink, end - segment.head.window);
  for (std::int64_t position = slice.position; position < end; ++position) {
    if (position >= segment.head.sink && position < window_begin) {
      position = window_begin - 1;  // a later row of this slice takes the slot
      continue;
    }
    const float* source = qkv.data<float>() + (slice.row + position - slice.position) * row.width;
    const std::int64_t slot = slot_of(segment.head, position);
    store_row(kernels, source + row.key(head), row.head_dim, dtype, segment.keys, slot);
    store_row(kernels, source + row.value(head), row.head_dim, dtype, segment.values, slot);
  }
}

void cpu_rope_append(const CpuContext& cpu, const Backend::RopeArgs& args, Tensor& qkv) {
  const QkvRow row(args.shape);
  const auto process = [&](std::int64_t begin, std::int64_t end, int) {
    for (const SequenceSlice& slice : args.slices) {
      const std::int64_t first = std::max(begin, slice.row);
      const std::int64_t last = std::min(end, slice.row + slice.count);
      for (std::int64_t r = first; r < last; ++r) {
        rotate_row(cpu.kernels, args, slice.position + r - slice.row,
                   qkv.data<float>() + r * row.width);
        if (slice.count > 1) continue;
        for (std::int64_t head = 0; head < args.shape.num_kv_heads; ++head) {
          append_head(cpu.kernels, row, slice, args.layer, head, qkv);
        }
      }
    }
  };
  const std::int64_t rows = qkv.dim(0);
  if (rows * row.width < kParallelElements) {
    process(0, rows, 0);
  } else {
    cpu.pool.parallel_for(rows, 1, process);
  }
}

}  // namespace moa_rt
