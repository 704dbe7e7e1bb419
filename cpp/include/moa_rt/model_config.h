// The shape of a decoder, in the field names of a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moa_rt/types.h"

namespace moa_rt {

enum class RopeType : std::uint8_t { kDefault, kLinear, kLlama3 };

// Rotary position embedding, arXiv 2104.09864. The llama3 fields follow Meta's Llama 3.1 scaling.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;                                // linear, llama3
  double low_freq_factor = 1.0;                       // llama3
  double high_freq_factor = 4.0;                      // llama3
  std::int64_t original_max_position_embeddings = 0;  // llama3
};

struct ModelConfig {
  std::string model_type;  // "llama", "mistral", "qwen2", "qwen3"
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t vocab_size = 0;  // rows of the embedding
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // bias on q, k and v only (Qwen2)
  bool qk_norm = false;         // RMSNorm over each head of q and k (Qwen3)
  std::optional<DType> torch_dtype;
  std::optional<std::int64_t> bos_token_id;
  std::vector<std::int64_t> eos_token_ids;  // empty: generation stops on length only

  // SHA-256 in hex over the shape and every weight, from the model directory's manifest; empty for
  // a config that was not read from one. A plan is bound to a model by it.
  std::string fingerprint;

  std::int64_t query_size() const { return num_attention_heads * head_dim; }
  std::int64_t kv_size() const { return num_key_value_heads * head_dim; }
  std::int64_t qkv_size() const { return query_size() + 2 * kv_size(); }

  // Reads `<model_dir>/config.json` and, if it is there, the fingerprint from `manifest.json`.
  // Throws IoError, FormatError, UnsupportedError or MismatchError, naming the field.
  static ModelConfig load(const std::string& model_dir);

  // Parses the text of a config.json; `path` is only for messages.
  static ModelConfig parse(const std::string& text, const std::string& path);
};

}  // namespace moa_rt
