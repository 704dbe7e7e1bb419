#include "model/weight_manifest.h"

#include <algorithm>
#include <string_view>

namespace moa_rt {
namespace {

// Collects the specs of one layer or of the model.
class ManifestBuilder {
 public:
  explicit ManifestBuilder(std::size_t expected) { specs_.reserve(expected); }

  // A tensor that the Hugging Face checkpoint holds under the same name.
  void same(std::string name, std::vector<std::int64_t> shape) {
    WeightSource source{name, shape};
    specs_.push_back({std::move(name), std::move(shape), {std::move(source)}});
  }
  // Sources stacked along their first axis.
  void stacked(std::string name, std::vector<WeightSource> sources) {
    std::vector<std::int64_t> shape = sources.front().shape;
    shape[0] = 0;
    for (const WeightSource& source : sources) shape[0] += source.shape[0];
    specs_.push_back({std::move(name), std::move(shape), std::move(sources)});
  }
  std::vector<WeightSpec> take() { return std::move(specs_); }

 private:
  std::vector<WeightSpec> specs_;
};

void add_attention(const ModelConfig& config, std::int64_t index, ManifestBuilder& out) {
  const auto name = [&](const char* suffix) { return weight_names::layer(index, suffix); };
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = config.query_size();
  const std::int64_t kv = config.kv_size();
  out.stacked(name(weight_names::kQkv), {{name("self_attn.q_proj.weight"), {query, hidden}},
                                         {name("self_attn.k_proj.weight"), {kv, hidden}},
                                         {name("self_attn.v_proj.weight"), {kv, hidden}}});
  if (config.attention_bias) {
    out.stacked(name(weight_names::kQkvBias), {{name("self_attn.q_proj.bias"), {query}},
                                               {name("self_attn.k_proj.bias"), {kv}},
                                               {name("self_attn.v_proj.bias"), {kv}}});
  }
  if (config.qk_norm) {
    out.same(name(weight_names::kQueryNorm), {config.head_dim});
    out.same(name(weight_names::kKeyNorm), {config.head_dim});
  }
  out.same(name(weight_names::kOutput), {hidden, query});
}

void add_layer(const ModelConfig& config, std::int64_t index, ManifestBuilder& out) {
  const auto name = [&](const char* suffix) { return weight_names::layer(index, suffix); };
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t inner = config.intermediate_size;
  out.same(name(weight_names::kInputNorm), {hidden});
  add_attention(config, index, out);
  out.same(name(weight_names::kPostNorm), {hidden});
  out.stacked(name(weight_names::kGateUp), {{name("mlp.gate_proj.weight"), {inner, hidden}},
                                            {name("mlp.up_proj.weight"), {inner, hidden}}});
  out.same(name(weight_names::kDown), {hidden, inner});
}

}  // namespace

std::string weight_names::layer(std::int64_t index, const char* suffix) {
  return "model.layers." + std::to_string(index) + "." + suffix;
}

std::vector<WeightSpec> weight_manifest(const ModelConfig& config) {
  ManifestBuilder out(static_cast<std::size_t>(config.num_hidden_layers) * 9 + 3);
  out.same(weight_names::kEmbedding, {config.vocab_size, config.hidden_size});
  for (std::int64_t index = 0; index < config.num_hidden_layers; ++index) {
    add_layer(config, index, out);
  }
  out.same(weight_names::kFinalNorm, {config.hidden_size});
  if (!config.tie_word_embeddings) {
    out.same(weight_names::kLmHead, {config.vocab_size, config.hidden_size});
  }
  return out.take();
}

// Rotary tables that older exports saved: "model.layers.<n>.self_attn.rotary_emb.inv_freq" and
// "model.rotary_emb.inv_freq".
bool is_ignorable_source(const std::string& name) {
  constexpr std::string_view kSuffix = "rotary_emb.inv_freq";
  constexpr std::string_view kLayer = "model.layers.";
  constexpr std::string_view kAttention = ".self_attn.";
  std::string_view rest = name;
  if (!rest.ends_with(kSuffix)) return false;
  rest.remove_suffix(kSuffix.size());
  if (rest == "model.") return true;
  if (!rest.starts_with(kLayer) || !rest.ends_with(kAttention)) return false;
  if (rest.size() <= kLayer.size() + kAttention.size()) return false;
  rest.remove_prefix(kLayer.size());
  rest.remove_suffix(kAttention.size());
  return std::ranges::all_of(rest, [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace moa_rt
