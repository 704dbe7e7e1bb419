#include "model/config_keys.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <string_view>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

// Read by ModelConfig::parse.
constexpr std::array<std::string_view, 25> kRead = {"architectures",
                                                    "attention_bias",
                                                    "bos_token_id",
                                                    "dtype",
                                                    "eos_token_id",
                                                    "head_dim",
                                                    "hidden_size",
                                                    "intermediate_size",
                                                    "layer_types",
                                                    "max_position_embeddings",
                                                    "model_type",
                                                    "num_attention_heads",
                                                    "num_hidden_layers",
                                                    "num_key_value_heads",
                                                    "partial_rotary_factor",
                                                    "quantization_config",
                                                    "rms_norm_eps",
                                                    "rope_parameters",
                                                    "rope_scaling",
                                                    "rope_theta",
                                                    "sliding_window",
                                                    "tie_word_embeddings",
                                                    "torch_dtype",
                                                    "use_sliding_window",
                                                    "vocab_size"};

// No influence on the function that the weights compute: training, generation defaults,
// book-keeping. `auto_map` names remote code, which is never imported (C13). `max_window_layers`
// acts only together with `use_sliding_window`; `pretraining_tp` only splits matmuls.
constexpr std::array<std::string_view, 63> kHarmless = {"attention_dropout",
                                                        "auto_map",
                                                        "bad_words_ids",
                                                        "begin_suppress_tokens",
                                                        "chunk_size_feed_forward",
                                                        "cross_attention_hidden_size",
                                                        "decoder_start_token_id",
                                                        "diversity_penalty",
                                                        "do_sample",
                                                        "early_stopping",
                                                        "embd_pdrop",
                                                        "encoder_no_repeat_ngram_size",
                                                        "exponential_decay_length_penalty",
                                                        "finetuning_task",
                                                        "forced_bos_token_id",
                                                        "forced_eos_token_id",
                                                        "hidden_dropout",
                                                        "id2label",
                                                        "initializer_range",
                                                        "is_decoder",
                                                        "is_llama_config",
                                                        "label2id",
                                                        "length_penalty",
                                                        "max_length",
                                                        "max_sequence_length",
                                                        "max_window_layers",
                                                        "min_length",
                                                        "no_repeat_ngram_size",
                                                        "num_beam_groups",
                                                        "num_beams",
                                                        "num_return_sequences",
                                                        "output_attentions",
                                                        "output_hidden_states",
                                                        "output_scores",
                                                        "pad_token",
                                                        "pad_token_id",
                                                        "prefix",
                                                        "pretraining_tp",
                                                        "problem_type",
                                                        "remove_invalid_values",
                                                        "repetition_penalty",
                                                        "resid_pdrop",
                                                        "return_dict",
                                                        "return_dict_in_generate",
                                                        "sep_token_id",
                                                        "suppress_tokens",
                                                        "task_specific_params",
                                                        "temperature",
                                                        "tf_legacy_loss",
                                                        "tie_encoder_decoder",
                                                        "tokenizer_class",
                                                        "top_k",
                                                        "top_p",
                                                        "torchscript",
                                                        "transformers.js_config",
                                                        "transformers_version",
                                                        "typical_p",
                                                        "unsloth_fixed",
                                                        "unsloth_version",
                                                        "use_bfloat16",
                                                        "use_cache",
                                                        "bos_token",
                                                        "eos_token"};

bool contains(std::span<const std::string_view> list, std::string_view key) {
  return std::ranges::find(list, key) != list.end();
}

// An unknown key that is off, or empty, asks for nothing.
bool is_off(const Json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  return value.is_structured() && value.empty();
}

[[noreturn]] void unsupported(const JsonObject& config, std::string_view key,
                              std::string_view note) {
  throw UnsupportedError(
      describe({.file = config.path(), .item = quoted_item("key", key), .note = note}));
}

void check_activation(const JsonObject& config) {
  if (!config.has("hidden_act")) return;
  const std::string name = config.string("hidden_act");
  if (name != "silu") {
    unsupported(config, "hidden_act",
                "activation \"" + escape_name(name) + "\" is not implemented, want \"silu\"");
  }
}

void check_quantization(const JsonObject& config) {
  if (!config.has("quantization_config")) return;
  const JsonObject quantization(config.at("quantization_config"), config.path(),
                                "quantization_config");
  const std::string method =
      quantization.has("quant_method") ? quantization.string("quant_method") : "unnamed";
  unsupported(
      config, "quantization_config",
      "method \"" + escape_name(method) + "\" is not implemented; give unquantized weights");
}

}  // namespace

void check_config_keys(const JsonObject& config) {
  check_quantization(config);
  check_activation(config);
  for (const auto& [key, value] : config.value().items()) {
    if (key == "hidden_act" || contains(kRead, key) || contains(kHarmless, key)) continue;
    if (key.starts_with("_") || key.starts_with("x_") || is_off(value)) continue;
    unsupported(config, key,
                "is not known to be implemented; if it does not change what the model computes, "
                "remove it from the file");
  }
}

}  // namespace moa_rt
