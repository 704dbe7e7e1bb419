// Launchers of the attention kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/attention/work.h"
#include "moa_rt/span.h"
#include "moa_rt/types.h"

namespace moa_rt::cuda {

struct AttentionDims {
  std::int32_t query_heads = 0;
  std::int32_t kv_heads = 0;
  std::int32_t head_dim = 0;

  MOA_RT_HOST_DEVICE constexpr std::int32_t group() const { return query_heads / kv_heads; }
  MOA_RT_HOST_DEVICE constexpr std::int32_t qkv_width() const {
    return (query_heads + 2 * kv_heads) * head_dim;
  }
};

// Decode: out rows of the items = softmax(q k^T / sqrt(D)) v over the filled slots.
struct DecodeArgs {
  AttentionDims dims;
  DType dtype = DType::kBF16;  // of the caches
  const DecodeItem* items = nullptr;
  std::int32_t num_items = 0;
  const std::int32_t* positions = nullptr;  // of every row, its key already in the cache
  const float* qkv = nullptr;               // (M, (Hq + 2 Hkv) * D), after RoPE
  float* out = nullptr;                     // (M, Hq * D)
  // Partial results: sums (P, 8, D), states (P, 8, 2) and counters (P) that are 0 between launches.
  float* partial_sums = nullptr;
  float* partial_states = nullptr;
  std::int32_t* counters = nullptr;
};
void launch_decode_attention(const DecodeArgs& args, cudaStream_t stream);
// Makes a recorded launch one of these arguments, for the executions to come.
void set_decode_attention(cudaGraphExec_t graph, cudaGraphNode_t node, DecodeArgs args);
// Floats and counters of a partial result.
constexpr std::int64_t partial_bytes(std::int64_t head_dim) {
  return kQueriesPerItem * (head_dim + 2) * 4 + 4;
}
// Blocks of the decode kernel that fit on the current device at once.
std::int32_t decode_slots(DType dtype, std::int32_t head_dim);

// The rows of a step in the caches' type: what prefill reads and appends.
struct StagedChunk {
  void* queries = nullptr;  // (M, Hq, D)
  void* keys = nullptr;     // (Hkv, M, D)
  void* values = nullptr;   // (Hkv, M, D)
};
void launch_stage_chunk(const AttentionDims& dims, DType dtype, const float* qkv, std::int32_t rows,
                        const StagedChunk& chunk, cudaStream_t stream);

// Prefill: query rows over the slots filled before the step and the step's own keys.
inline constexpr int kPrefillTileRows = 128;
struct PrefillArgs {
  AttentionDims dims;
  DType dtype = DType::kBF16;
  const Segment* segments = nullptr;
  const PrefillItem* items = nullptr;
  std::int32_t num_items = 0;
  std::int32_t rows = 0;  // M
  StagedChunk chunk;
  float* out = nullptr;
};
void launch_prefill_attention(const PrefillArgs& args, cudaStream_t stream);

// Writes what each head keeps of a prefilled chunk into its slots; of any 16-bit type.
struct AppendArgs {
  AttentionDims dims;
  const Segment* segments = nullptr;
  const PrefillItem* items = nullptr;  // the tiles that attended
  std::int32_t num_items = 0;
  std::int32_t rows = 0;
  StagedChunk chunk;
};
void launch_append_chunk(const AppendArgs& args, cudaStream_t stream);

// Puts back what appending a token at `position` overwrote: `kept` (segments, 2, D), head_bytes a
// segment, as rope_append left it.
void launch_take_back(const Segment* segments, std::int32_t count, std::int64_t position,
                      const std::byte* kept, std::int64_t head_bytes, cudaStream_t stream);

}  // namespace moa_rt::cuda
