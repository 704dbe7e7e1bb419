// The rows of a prefilled chunk: staged in the caches' type before attention, keys and values
// written into the slots after it.
#include "cuda/attention/attention.h"
#include "cuda/device/dispatch.h"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace {

constexpr int kThreads = 256;

// Four elements a thread.
template <typename T>
__global__ void stage_chunk(AttentionDims dims, const float* qkv, std::int64_t rows,
                            StagedChunk chunk) {
  const std::int64_t width = dims.qkv_width();
  const std::int64_t index = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (index >= rows * width) return;
  const std::int64_t row = index / width;
  const std::int64_t column = index % width;
  const std::int64_t head = column / dims.head_dim - dims.query_heads;
  const float4 x = *reinterpret_cast<const float4*>(qkv + index);
  const uint2 packed = {pack<T>(x.x, x.y), pack<T>(x.z, x.w)};
  T* target = static_cast<T*>(chunk.queries) + row * dims.query_heads * dims.head_dim + column;
  if (head >= 0) {
    void* const part = head < dims.kv_heads ? chunk.keys : chunk.values;
    target = static_cast<T*>(part) + ((head % dims.kv_heads) * rows + row) * dims.head_dim +
             column % dims.head_dim;
  }
  *reinterpret_cast<uint2*>(target) = packed;
}

// One tile of a segment's tokens; only those whose slot no later token of the chunk takes.
__global__ void append_chunk(AppendArgs args) {
  const PrefillItem item = args.items[blockIdx.x];
  const Segment segment = args.segments[item.segment];
  const HeadSpan span{segment.sink, segment.window};
  const std::int64_t end = std::int64_t{segment.position} + segment.count;
  const int row_chunks = args.dims.head_dim / 8;  // of 16 bytes
  const uint4* keys = static_cast<const uint4*>(args.chunk.keys);
  const uint4* values = static_cast<const uint4*>(args.chunk.values);
  uint4* slots = reinterpret_cast<uint4*>(segment.keys);

  for (int index = static_cast<int>(threadIdx.x); index < item.tokens * row_chunks;
       index += kThreads) {
    const int token = item.token + index / row_chunks;
    const int chunk = index % row_chunks;
    const std::int64_t position = std::int64_t{segment.position} + token;
    if (position >= span.sink && position + span.window < end) continue;
    const std::int64_t source =
        (static_cast<std::int64_t>(item.head) * args.rows + segment.row + token) * row_chunks +
        chunk;
    const std::int64_t slot = slot_of(span, position);
    slots[slot * row_chunks + chunk] = keys[source];
    slots[(span.span() + slot) * row_chunks + chunk] = values[source];
  }
}

// One block a segment; 16 bytes a thread.
__global__ void take_back(const Segment* segments, std::int64_t position, const std::byte* kept,
                          std::int64_t head_bytes) {
  const Segment segment = segments[blockIdx.x];
  const HeadSpan span{segment.sink, segment.window};
  const std::int64_t half = head_bytes / 2;
  const std::int64_t offset = static_cast<std::int64_t>(threadIdx.x) * 16;
  if (offset >= head_bytes) return;
  const bool is_value = offset >= half;
  const std::int64_t slot = slot_of(span, position) + (is_value ? span.span() : 0);
  std::byte* target = segment.keys + slot * half + (is_value ? offset - half : offset);
  *reinterpret_cast<uint4*>(target) =
      *reinterpret_cast<const uint4*>(kept + blockIdx.x * head_bytes + offset);
}

}  // namespace

void launch_stage_chunk(const AttentionDims& dims, DType dtype, const float* qkv, std::int32_t rows,
                        const StagedChunk& chunk, cudaStream_t stream) {
  const std::int64_t threads = static_cast<std::int64_t>(dims.qkv_width()) * rows / 4;
  if (threads == 0) return;
  const auto blocks = static_cast<unsigned>((threads + kThreads - 1) / kThreads);
  dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch_in_order("stage chunk", stage_chunk<T>, dim3(blocks), kThreads, 0, stream, dims, qkv,
                    rows, chunk);
  });
}

void launch_append_chunk(const AppendArgs& args, cudaStream_t stream) {
  if (args.num_items == 0) return;
  launch_in_order("append chunk", append_chunk, dim3(static_cast<unsigned>(args.num_items)),
                  kThreads, 0, stream, args);
}

void launch_take_back(const Segment* segments, std::int32_t count, std::int64_t position,
                      const std::byte* kept, std::int64_t head_bytes, cudaStream_t stream) {
  launch_in_order("take_back", take_back, dim3(static_cast<unsigned>(count)),
                  static_cast<int>(head_bytes / 16), 0, stream, segments, position, kept,
                  head_bytes);
}

}  // namespace moa_rt::cuda
