#include "model/activations.h"

namespace moa_rt {

Activations Activations::allocate(Allocator& allocator, const ModelConfig& config,
                                  std::int64_t rows, std::int64_t logit_rows) {
  const auto make = [&](std::int64_t count, std::int64_t width) {
    return Tensor::allocate(allocator, DType::kF32, {count, width});
  };
  return {.hidden = make(rows, config.hidden_size),
          .normed = make(rows, config.hidden_size),
          .qkv = make(rows, config.qkv_size()),
          .attention = make(rows, config.query_size()),
          .gate_up = make(rows, 2 * config.intermediate_size),
          .mlp = make(rows, config.intermediate_size),
          .head_rows = make(logit_rows, config.hidden_size),
          .logits = make(logit_rows, config.vocab_size)};
}

std::int64_t Activations::predict_bytes(const ModelConfig& config, std::int64_t rows,
                                        std::int64_t logit_rows) {
  const std::int64_t row_width = 2 * config.hidden_size + config.qkv_size() + config.query_size() +
                                 3 * config.intermediate_size;
  const std::int64_t logit_width = config.hidden_size + config.vocab_size;
  return (rows * row_width + logit_rows * logit_width) * size_of(DType::kF32);
}

}  // namespace moa_rt
