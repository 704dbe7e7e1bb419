// Decoder: the transformer itself, from token ids to logits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "moa_rt/model_config.h"
#include "model/activations.h"
#include "model/checkpoint.h"
#include "ops/backend.h"

namespace moa_rt {

// Called after the attention of each layer, for checking: qkv (M, qkv_size) with q and k after
// RoPE, attention (M, query_size), both on the device and valid during the call.
using LayerObserver =
    std::function<void(std::int64_t layer, const Tensor& qkv, const Tensor& attention)>;

// The work of one step: `slices` cut the rows `tokens` into sequences.
struct DecoderStep {
  std::span<const std::int32_t> tokens;   // (M)
  std::span<const SequenceSlice> slices;  // in order of row, covering all of them
  const LayerObserver* observer = nullptr;
};

class Decoder {
 public:
  // config and backend must outlive the decoder.
  Decoder(const ModelConfig& config, Backend& backend, ModelWeights weights, RopeTable rope);

  // Runs all layers over the step's rows; the result is activations.hidden (M, hidden). Every cache
  // holds the rows' keys and values afterwards; the caller advances its length. `interrupted` is
  // asked before each layer; if it says yes the step is abandoned and false returned: the caches of
  // its sequences are then partly written and must not be used again.
  bool forward(const DecoderStep& step, Activations& activations,
               const std::function<bool()>& interrupted) const;

  // Logits of rows `index` of activations.hidden, at most as many as activations.logits has rows:
  // float32 (index.size(), vocab), valid until the next call.
  Tensor logits(std::span<const std::int64_t> index, Activations& activations) const;

  // Bytes of weights one decode step reads: every matrix once, of an untied embedding only its
  // rows.
  std::int64_t bytes_per_step() const;

 private:
  void attention_block(const LayerWeights& layer, std::int64_t index, const DecoderStep& step,
                       Activations& activations) const;
  void mlp_block(const LayerWeights& layer, std::int64_t rows, Activations& activations) const;

  const ModelConfig& config_;
  Backend& backend_;
  ModelWeights weights_;
  RopeTable rope_;
};

}  // namespace moa_rt
