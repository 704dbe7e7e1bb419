#include "model/decoder.h"

#include <utility>

#include "ops/ops.h"

namespace moa_rt {

Decoder::Decoder(const ModelConfig& config, Backend& backend, ModelWeights weights, RopeTable rope)
    : config_(config), backend_(backend), weights_(std::move(weights)), rope_(std::move(rope)) {}

bool Decoder::forward(const DecoderStep& step, Activations& activations,
                      const std::function<bool()>& interrupted) const {
  const auto rows = static_cast<std::int64_t>(step.tokens.size());
  Tensor hidden = activations.hidden.rows(0, rows);
  ops::embed(backend_, weights_.embedding, step.tokens, hidden);
  for (std::size_t index = 0; index < weights_.layers.size(); ++index) {
    if (interrupted && interrupted()) return false;
    const LayerWeights& layer = weights_.layers[index];
    attention_block(layer, static_cast<std::int64_t>(index), step, activations);
    mlp_block(layer, rows, activations);
  }
  return true;
}

// hidden += Wo attention(rope(Wqkv norm(hidden)))
void Decoder::attention_block(const LayerWeights& layer, std::int64_t index,
                              const DecoderStep& step, Activations& activations) const {
  const auto rows = static_cast<std::int64_t>(step.tokens.size());
  const AttentionShape shape{config_.num_attention_heads, config_.num_key_value_heads,
                             config_.head_dim};
  Tensor hidden = activations.hidden.rows(0, rows);
  Tensor normed = activations.normed.rows(0, rows);
  Tensor qkv = activations.qkv.rows(0, rows);
  Tensor attention = activations.attention.rows(0, rows);
  const auto optional = [](const Tensor& tensor) { return tensor.empty() ? nullptr : &tensor; };

  ops::norm_matmul(backend_, hidden, {&layer.input_norm, config_.rms_norm_eps}, layer.qkv,
                   optional(layer.qkv_bias), normed, qkv);
  ops::rope_append(backend_,
                   {.shape = shape,
                    .layer = index,
                    .slices = step.slices,
                    .rope = &rope_,
                    .query_norm = optional(layer.query_norm),
                    .key_norm = optional(layer.key_norm),
                    .norm_eps = config_.rms_norm_eps},
                   qkv);
  ops::attention(backend_, {.shape = shape, .layer = index, .slices = step.slices}, qkv, attention);
  if (step.observer != nullptr) (*step.observer)(index, qkv, attention);
  ops::matmul(backend_, attention, layer.output, nullptr, /*accumulate=*/true, hidden);
}

// hidden += Wdown (silu(Wgate norm(hidden)) * Wup norm(hidden))
void Decoder::mlp_block(const LayerWeights& layer, std::int64_t rows,
                        Activations& activations) const {
  Tensor hidden = activations.hidden.rows(0, rows);
  Tensor normed = activations.normed.rows(0, rows);
  Tensor gate_up = activations.gate_up.rows(0, rows);
  Tensor mlp = activations.mlp.rows(0, rows);

  ops::mlp(backend_,
           {.norm = {&layer.post_norm, config_.rms_norm_eps},
            .gate_up = &layer.gate_up,
            .down = &layer.down,
            .normed = &normed,
            .gate_up_rows = &gate_up,
            .gated = &mlp},
           hidden);
}

Tensor Decoder::logits(std::span<const std::int64_t> index, Activations& activations) const {
  const auto rows = static_cast<std::int64_t>(index.size());
  Tensor head_rows = activations.head_rows.rows(0, rows);
  Tensor logits = activations.logits.rows(0, rows);
  ops::gather_rows(backend_, activations.hidden, index, head_rows);
  ops::norm_matmul(backend_, head_rows, {&weights_.final_norm, config_.rms_norm_eps},
                   weights_.head(), nullptr, head_rows, logits);
  return logits;
}

std::int64_t Decoder::bytes_per_step() const {
  std::int64_t bytes = weights_.head().storage.bytes();
  for (const LayerWeights& layer : weights_.layers) {
    bytes += layer.qkv.storage.bytes() + layer.output.storage.bytes() +
             layer.gate_up.storage.bytes() + layer.down.storage.bytes();
  }
  return bytes;
}

}  // namespace moa_rt
