// All scratch memory of the CPU backend: one block, sized by the limits, divided once.
#pragma once

#include <cstdint>

#include "core/allocator.h"
#include "cpu/kernels.h"
#include "ops/backend.h"

namespace moa_rt {

// One unit of attention work.
struct AttentionItem {
  std::int32_t slice = 0;
  std::int32_t kv_head = 0;
  std::int32_t index = 0;  // decode: chunk of slots; prefill: query tile
};

// Query positions of a prefill tile: enough rows to pay for packing the keys, few enough for L2.
std::int64_t prefill_tile_positions(const AttentionShape& shape);

// Scratch of one thread for a prefill tile of R = positions * group rows.
struct PrefillScratch {
  float* queries = nullptr;  // (R, D)
  float* scores = nullptr;   // (R, kTileKeys)
  float* out = nullptr;      // (R, D rounded up to 16)
  float* max = nullptr;      // (R)
  float* sum = nullptr;      // (R)
  float* keys = nullptr;     // (kTileKeys / 16, D, 16)
  float* values = nullptr;   // (D / 16 rounded up, kTileKeys, 16)
};

class Workspace {
 public:
  Workspace() = default;
  Workspace(const BackendLimits& limits, int num_threads, std::int64_t bf16_operand_size);

  // Bytes of the block.
  std::int64_t bytes() const { return bytes_; }
  void allocate(Allocator& allocator) { storage_ = Storage(allocator, bytes_); }
  // Throws InternalError unless steps of this size were reserved.
  void require_rows(std::int64_t rows) const;
  void require_cols(std::int64_t cols) const;
  void require_attention(const AttentionShape& shape, std::int64_t rows, std::int64_t slices) const;
  void require_length(std::int64_t length) const;

  const BackendLimits& limits() const { return limits_; }
  void* operand() const { return storage_.data() + operand_; }
  float* widen(int thread) const { return thread_floats(thread, widen_); }
  float* tile(int thread) const { return thread_floats(thread, tile_); }
  PrefillScratch prefill(int thread) const;
  AttentionItem* items() const;
  // Partial results of a chunk: (group, D + 2).
  float* partial(std::int64_t slice, std::int64_t kv_head, std::int64_t chunk) const;

 private:
  std::int64_t take(std::int64_t bytes);  // offset of the next part
  float* thread_floats(int thread, std::int64_t offset) const;
  void require(const char* field, std::int64_t got, std::int64_t limit) const;

  BackendLimits limits_;
  Storage storage_;
  std::int64_t bytes_ = 0;
  std::int64_t max_chunks_ = 0;
  std::int64_t partial_floats_ = 0;  // of one chunk
  // Offsets in bytes: of the block, then of each thread's part.
  std::int64_t operand_ = 0, items_ = 0, partials_ = 0, threads_ = 0, thread_bytes_ = 0;
  std::int64_t widen_ = 0, tile_ = 0, queries_ = 0, scores_ = 0, out_ = 0, state_ = 0, keys_ = 0,
               values_ = 0;
};

}  // namespace moa_rt
