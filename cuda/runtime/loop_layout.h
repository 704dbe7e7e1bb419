// Device memory of a decode loop: one block, laid out from the limits.
#pragma once

#include <cstdint>

#include "cuda/runtime/workspace.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

// Byte offsets into the block; each region starts at a multiple of 256. R rows, L layers.
struct LoopLayout {
  LoopLayout(const BackendLimits& limits, const WorkspaceLayout& workspace);

  std::int64_t rows = 0;
  std::int64_t layers = 0;
  std::int64_t kv_heads = 0;
  std::int64_t heads = 0;            // L * Hkv: segments of a row
  std::int64_t head_bytes = 0;       // key and value of one token
  std::int64_t rows_per_launch = 1;  // of decode attention
  std::int64_t items_per_row = 0;    // at most, of a layer
  std::int64_t most_seen = 0;        // tokens that a row's penalties may know

  std::int64_t tokens = 0;      // int32 (R)
  std::int64_t positions = 0;   // int32 (R)
  std::int64_t row_slices = 0;  // int32 (R): 0, 1, ...
  std::int64_t row_index = 0;   // int64 (R): 0, 1, ...
  std::int64_t states = 0;      // RowState (R)
  std::int64_t lists = 0;       // RowLists (R)
  std::int64_t results = 0;     // RowResult (R)
  std::int64_t top = 0;         // TopToken (R, kMaxTop), follows the results
  std::int64_t segments = 0;    // Segment (R, L, Hkv)
  std::int64_t taken = 0;       // Segment (L, Hkv): of the cache that is given back a token
  std::int64_t items = 0;       // DecodeItem (L, R * items_per_row)
  std::int64_t kept = 0;        // (R, L, Hkv, 2, D): what the last step overwrote
  std::int64_t total_bytes = 0;

  // With the cache that idle rows share.
  std::int64_t bytes_with_padding() const { return total_bytes + heads * head_bytes; }
};

}  // namespace moa_rt::cuda
