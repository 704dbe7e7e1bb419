#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "core/json.h"
#include "core/message.h"
#include "io/file.h"
#include "moa_rt/error.h"
#include "moa_rt/model_config.h"
#include "model/config_keys.h"
#include "model/model_manifest.h"
#include "model/rope_config.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kMaxConfigBytes = std::int64_t{4} << 20;
constexpr std::int64_t kMaxLayers = 512;
constexpr std::int64_t kMaxHeads = 512;
constexpr std::int64_t kMaxHidden = 65536;
constexpr std::int64_t kMaxIntermediate = std::int64_t{1} << 18;
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 20;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 21;
constexpr std::int64_t kMaxHeadDim = 256;
constexpr std::size_t kMaxEosTokens = 64;

struct Family {
  std::string_view architecture;
  std::string_view model_type;
  bool attention_bias;
  bool qk_norm;
};
constexpr std::array<Family, 4> kFamilies = {{
    {"LlamaForCausalLM", "llama", false, false},
    {"MistralForCausalLM", "mistral", false, false},
    {"Qwen2ForCausalLM", "qwen2", true, false},
    {"Qwen3ForCausalLM", "qwen3", false, true},
}};

[[noreturn]] void mismatch(const JsonObject& config, std::string_view field, std::string_view got,
                           std::string_view want) {
  throw MismatchError(describe({.file = config.path(), .field = field, .got = got, .want = want}));
}

[[noreturn]] void unsupported(const JsonObject& config, std::string_view field,
                              std::string_view note) {
  throw UnsupportedError(describe({.file = config.path(), .field = field, .note = note}));
}

const Family& read_family(const JsonObject& config) {
  const Json& names = config.array("architectures");
  if (names.size() != 1 || !names[0].is_string()) {
    unsupported(config, "architectures",
                "got " + std::to_string(names.size()) + " entries, want the name of one");
  }
  const auto& name = names[0].get_ref<const std::string&>();
  const auto* family = std::ranges::find(kFamilies, name, &Family::architecture);
  if (family == kFamilies.end()) {
    unsupported(config, "architectures",
                "\"" + escape_name(name) +
                    "\" is not implemented; implemented: LlamaForCausalLM, MistralForCausalLM, "
                    "Qwen2ForCausalLM, Qwen3ForCausalLM");
  }
  const std::string model_type = config.string("model_type");
  if (model_type != family->model_type) {
    mismatch(config, "model_type", escape_name(model_type),
             std::string(family->model_type) + " for " + name);
  }
  return *family;
}

void read_sizes(const JsonObject& config, ModelConfig& out) {
  out.hidden_size = config.integer("hidden_size", 1, kMaxHidden);
  out.intermediate_size = config.integer("intermediate_size", 1, kMaxIntermediate);
  out.num_hidden_layers = config.integer("num_hidden_layers", 1, kMaxLayers);
  out.num_attention_heads = config.integer("num_attention_heads", 1, kMaxHeads);
  out.vocab_size = config.integer("vocab_size", 1, kMaxVocab);
  out.max_position_embeddings = config.integer("max_position_embeddings", 1, kMaxContext);
  out.rms_norm_eps = config.number("rms_norm_eps", 1e-12, 0.1);
}

// C4. Configurations of Llama 1 do not write the number of KV heads; the other families always do.
void read_kv_heads(const JsonObject& config, ModelConfig& out) {
  out.num_key_value_heads = out.num_attention_heads;
  if (out.model_type == "llama" && !config.has("num_key_value_heads")) return;
  // 0 is a mismatch, as any other number that does not divide the heads.
  out.num_key_value_heads =
      config.integer("num_key_value_heads", 0, std::numeric_limits<std::int32_t>::max());
  const std::int64_t heads = out.num_attention_heads;
  const std::int64_t kv_heads = out.num_key_value_heads;
  const std::string want = "a divisor of num_attention_heads = " + std::to_string(heads);
  if (kv_heads == 0 || kv_heads > heads) {
    mismatch(config, "num_key_value_heads", std::to_string(kv_heads), want);
  }
  if (heads % kv_heads != 0) {
    mismatch(config, "num_key_value_heads", std::to_string(kv_heads),
             want + ": " + std::to_string(heads) + " = " + std::to_string(heads / kv_heads) +
                 " * " + std::to_string(kv_heads) + " + " + std::to_string(heads % kv_heads));
  }
}

// C3. A given head_dim need not be hidden_size / heads (Qwen3): the shapes of the weights decide.
// Which ones a device has kernels for is the backend's to say.
void read_head_dim(const JsonObject& config, ModelConfig& out) {
  const std::int64_t hidden = out.hidden_size;
  const std::int64_t heads = out.num_attention_heads;
  // Qwen3 means 128 when it is absent, not the quotient; no published one leaves it out.
  if (config.has("head_dim") || out.model_type == "qwen3") {
    out.head_dim = config.integer("head_dim", 1, kMaxHidden);
  } else if (hidden % heads != 0) {
    mismatch(config, "hidden_size", std::to_string(hidden),
             "a multiple of num_attention_heads = " + std::to_string(heads) +
                 " where head_dim is absent: " + std::to_string(hidden) + " = " +
                 std::to_string(hidden / heads) + " * " + std::to_string(heads) + " + " +
                 std::to_string(hidden % heads));
  } else {
    out.head_dim = hidden / heads;
  }
  if (out.head_dim % 8 != 0 || out.head_dim > kMaxHeadDim) {
    unsupported(config, "head_dim",
                "got " + std::to_string(out.head_dim) + ", want a multiple of 8 up to " +
                    std::to_string(kMaxHeadDim));
  }
}

// A model with a sliding window computes what we compute only while no sequence outgrows the
// window.
void check_sliding_window(const JsonObject& config, const ModelConfig& out) {
  if (out.model_type == "qwen2" || out.model_type == "qwen3") {
    if (config.has("use_sliding_window") && config.boolean("use_sliding_window")) {
      unsupported(config, "use_sliding_window", "a sliding window is not implemented");
    }
    return;
  }
  std::int64_t window = kMaxContext;
  if (config.has("sliding_window")) {
    window = config.integer("sliding_window", 1, std::numeric_limits<std::int64_t>::max());
  } else if (out.model_type == "mistral" && !config.contains("sliding_window")) {
    window = 4096;  // what the family means when the key is absent; null means none
  }
  if (window < out.max_position_embeddings) {
    unsupported(config, "sliding_window",
                "a window of " + std::to_string(window) + " below max_position_embeddings " +
                    std::to_string(out.max_position_embeddings) + " is not implemented");
  }
}

void check_layer_types(const JsonObject& config) {
  if (!config.has("layer_types")) return;
  for (const Json& type : config.array("layer_types")) {
    if (type.is_string() && type.get_ref<const std::string&>() == "full_attention") continue;
    unsupported(config, "layer_types", "only \"full_attention\" is implemented");
  }
}

void check_attention_bias(const JsonObject& config, const Family& family) {
  if (!config.has("attention_bias")) return;
  if (config.boolean("attention_bias") == family.attention_bias) return;
  unsupported(config, "attention_bias",
              family.attention_bias
                  ? "false is not implemented: the family has biases on q, k and v"
                  : "true is not implemented for this family");
}

std::int64_t read_token(const JsonObject& config, const char* field, const Json& value,
                        std::int64_t vocab_size) {
  const Json holder = {{field, value}};
  const std::int64_t id = JsonObject(holder, config.path())
                              .integer(field, std::numeric_limits<std::int64_t>::min(),
                                       std::numeric_limits<std::int64_t>::max());
  if (id < 0 || id >= vocab_size) {
    mismatch(config, field, std::to_string(id),
             "an id below vocab_size = " + std::to_string(vocab_size));
  }
  return id;
}

void read_tokens(const JsonObject& config, ModelConfig& out) {
  if (config.has("bos_token_id")) {
    out.bos_token_id =
        read_token(config, "bos_token_id", config.at("bos_token_id"), out.vocab_size);
  }
  if (!config.has("eos_token_id")) return;
  const Json& eos = config.at("eos_token_id");
  if (!eos.is_array()) {
    out.eos_token_ids = {read_token(config, "eos_token_id", eos, out.vocab_size)};
    return;
  }
  if (eos.size() > kMaxEosTokens) {
    throw FormatError(describe({.file = config.path(),
                                .field = "eos_token_id",
                                .got = std::to_string(eos.size()) + " ids",
                                .want = "at most " + std::to_string(kMaxEosTokens)}));
  }
  for (const Json& value : eos) {
    const std::int64_t id = read_token(config, "eos_token_id", value, out.vocab_size);
    if (std::ranges::count(out.eos_token_ids, id) == 0) out.eos_token_ids.push_back(id);
  }
}

// A hint only: the tensors decide (C14). A type we do not run, such as float64, is no hint.
std::optional<DType> read_dtype(const JsonObject& config) {
  const char* field = config.has("dtype") ? "dtype" : "torch_dtype";
  if (!config.has(field)) return std::nullopt;
  const std::string name = config.string(field);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

}  // namespace

ModelConfig ModelConfig::parse(const std::string& text, const std::string& path) {
  const JsonLimits limits{.max_bytes = static_cast<std::size_t>(kMaxConfigBytes), .max_depth = 16};
  const Json document = parse_json(text, path, limits);
  const JsonObject config(document, path);
  const Family& family = read_family(config);
  check_config_keys(config);

  ModelConfig out;
  out.model_type = family.model_type;
  out.attention_bias = family.attention_bias;
  out.qk_norm = family.qk_norm;
  read_sizes(config, out);
  read_kv_heads(config, out);
  read_head_dim(config, out);
  check_attention_bias(config, family);
  check_sliding_window(config, out);
  check_layer_types(config);
  out.rope = parse_rope_config(config);
  if (config.has("tie_word_embeddings")) {
    out.tie_word_embeddings = config.boolean("tie_word_embeddings");
  }
  out.torch_dtype = read_dtype(config);
  read_tokens(config, out);
  return out;
}

ModelConfig ModelConfig::load(const std::string& model_dir) {
  const std::string path = join_path(model_dir, "config.json");
  ModelConfig config = parse(read_text(path, kMaxConfigBytes), path);
  if (file_exists(join_path(model_dir, ModelManifest::kFileName))) {
    config.fingerprint = ModelManifest::load(model_dir).fingerprint;
  }
  return config;
}

}  // namespace moa_rt
