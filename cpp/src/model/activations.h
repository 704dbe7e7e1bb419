// Activations: every intermediate result of a step, sized once when the engine opens.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "moa_rt/model_config.h"

namespace moa_rt {

// All float32, row-major; R rows (tokens of a step) and L rows of logits.
struct Activations {
  Tensor hidden;     // (R, hidden): the residual stream
  Tensor normed;     // (R, hidden)
  Tensor qkv;        // (R, qkv_size)
  Tensor attention;  // (R, query_size)
  Tensor gate_up;    // (R, 2 * intermediate)
  Tensor mlp;        // (R, intermediate)
  Tensor head_rows;  // (L, hidden): the rows whose logits are wanted
  Tensor logits;     // (L, vocab)

  static Activations allocate(Allocator& allocator, const ModelConfig& config, std::int64_t rows,
                              std::int64_t logit_rows);
  // What allocate() takes.
  static std::int64_t predict_bytes(const ModelConfig& config, std::int64_t rows,
                                    std::int64_t logit_rows);
};

}  // namespace moa_rt
