// The one table of weights: names, shapes and where each comes from in a Hugging Face checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moa_rt/model_config.h"

namespace moa_rt {

// A tensor of the Hugging Face checkpoint that becomes rows of one of ours.
struct WeightSource {
  std::string name;
  std::vector<std::int64_t> shape;
};

// A tensor of the runtime's own checkpoint: its sources stacked along the first axis.
struct WeightSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<WeightSource> sources;
};

// Every tensor of the model, in the order in which the file holds them.
std::vector<WeightSpec> weight_manifest(const ModelConfig& config);

// Names a Hugging Face checkpoint may hold beside the needed ones, to be ignored (rotary tables, an
// lm_head that repeats the tied embedding is handled by the converter).
bool is_ignorable_source(const std::string& name);

// Names of single weights, so that nothing else spells them.
namespace weight_names {
inline constexpr const char* kEmbedding = "model.embed_tokens.weight";
inline constexpr const char* kFinalNorm = "model.norm.weight";
inline constexpr const char* kLmHead = "lm_head.weight";
std::string layer(std::int64_t index, const char* suffix);
inline constexpr const char* kInputNorm = "input_layernorm.weight";
inline constexpr const char* kQkv = "self_attn.qkv_proj.weight";
inline constexpr const char* kQkvBias = "self_attn.qkv_proj.bias";
inline constexpr const char* kQueryNorm = "self_attn.q_norm.weight";
inline constexpr const char* kKeyNorm = "self_attn.k_norm.weight";
inline constexpr const char* kOutput = "self_attn.o_proj.weight";
inline constexpr const char* kPostNorm = "post_attention_layernorm.weight";
inline constexpr const char* kGateUp = "mlp.gate_up_proj.weight";
inline constexpr const char* kDown = "mlp.down_proj.weight";
}  // namespace weight_names

}  // namespace moa_rt
