// All device memory of a CudaBackend beyond weights, caches and activations: one block, laid out
// from the limits before anything is allocated.
#pragma once

#include <cstdint>

#include "core/allocator.h"
#include "cuda/attention/work.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

// Byte offsets into the block; each region starts at a multiple of 256.
struct WorkspaceLayout {
  // slots: blocks of the decode kernel that run at once on the device.
  WorkspaceLayout(const BackendLimits& limits, std::int64_t slots);

  std::int64_t sequences_per_launch = 1;  // of decode attention
  std::int64_t max_partials = 0;          // partial results of one launch
  std::int64_t max_decode_items = 0;      // of a layer
  std::int64_t max_prefill_items = 0;     // of a layer
  std::int64_t max_segments = 0;          // of a layer
  std::int64_t table_copies = 1;          // layers whose tables stay on the device at once
  bool has_loop = false;                  // a decode loop with tables of all layers is wanted

  std::int64_t tokens = 0;          // int32 (rows)
  std::int64_t positions = 0;       // int32 (rows)
  std::int64_t row_slices = 0;      // int32 (rows)
  std::int64_t row_index = 0;       // int64 (rows)
  std::int64_t targets = 0;         // int32 (rows): whose logarithms are wanted
  std::int64_t logprobs = 0;        // RowLogprob (rows)
  std::int64_t converted = 0;       // dtype (rows, max_matrix_cols)
  std::int64_t chunk_queries = 0;   // dtype (rows, Hq, D)
  std::int64_t chunk_keys = 0;      // dtype (Hkv, rows, D)
  std::int64_t chunk_values = 0;    // dtype (Hkv, rows, D)
  std::int64_t partial_sums = 0;    // float (max_partials, 8, D)
  std::int64_t partial_states = 0;  // float (max_partials, 8, 2)
  std::int64_t counters = 0;        // int32 (max_partials)
  std::int64_t segments = 0;        // Segment (table_copies, max_segments)
  std::int64_t decode_items = 0;    // DecodeItem (table_copies, max_decode_items)
  std::int64_t prefill_items = 0;   // PrefillItem (max_prefill_items)
  std::int64_t blas = 0;            // BlasMatmul::kWorkspaceBytes
  std::int64_t total_bytes = 0;
};

}  // namespace moa_rt::cuda
