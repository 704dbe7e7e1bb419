// What the layers of one pass over a text computed: for finding where a run leaves its definition.
#pragma once

#include <cstdint>
#include <vector>

namespace moa_rt {

struct TraceOptions {
  std::int64_t budget = 0;  // the N that fixes the spans; 0: the number of tokens
  // Positions from here on run one at a time, as an answer does; all before them run in chunks, as
  // a prompt does. -1: everything in chunks.
  std::int64_t decode_from = -1;
  // The layers whose tensors are kept: [layer_begin, layer_end).
  std::int64_t layer_begin = 0;
  std::int64_t layer_end = 0;
  std::vector<std::int64_t> logit_positions;  // ascending
};

// Row-major. T tokens, L kept layers, Hq query heads, Hkv KV heads, D head_dim.
struct Trace {
  std::vector<float> qkv;        // (L, T, (Hq + 2 Hkv) * D): q and k after RoPE, v
  std::vector<float> attention;  // (L, T, Hq * D): what the heads gave, before the output matrix
  std::vector<float> logits;     // (logit_positions, vocab_size)
};

}  // namespace moa_rt
