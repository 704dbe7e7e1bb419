#include "model/weight_manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>

namespace moa_rt {
namespace {

using ::testing::ElementsAre;

ModelConfig small_config() {
  ModelConfig config;
  config.hidden_size = 48;
  config.intermediate_size = 80;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 100;
  config.tie_word_embeddings = true;
  return config;
}

std::vector<std::string> names(const std::vector<WeightSpec>& specs) {
  std::vector<std::string> out;
  for (const WeightSpec& spec : specs) out.push_back(spec.name);
  return out;
}

const WeightSpec& find(const std::vector<WeightSpec>& specs, const std::string& name) {
  for (const WeightSpec& spec : specs) {
    if (spec.name == name) return spec;
  }
  throw std::out_of_range(name);
}

TEST(WeightManifest, TiedLlama) {
  ModelConfig config = small_config();
  config.num_hidden_layers = 1;
  EXPECT_THAT(names(weight_manifest(config)),
              ElementsAre("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                          "model.layers.0.self_attn.qkv_proj.weight",
                          "model.layers.0.self_attn.o_proj.weight",
                          "model.layers.0.post_attention_layernorm.weight",
                          "model.layers.0.mlp.gate_up_proj.weight",
                          "model.layers.0.mlp.down_proj.weight", "model.norm.weight"));
}

TEST(WeightManifest, FusedShapesAndTheirSources) {
  const std::vector<WeightSpec> specs = weight_manifest(small_config());
  const WeightSpec& qkv = find(specs, "model.layers.1.self_attn.qkv_proj.weight");
  EXPECT_THAT(qkv.shape, ElementsAre(64 + 32 + 32, 48));
  ASSERT_EQ(qkv.sources.size(), 3u);
  EXPECT_EQ(qkv.sources[0].name, "model.layers.1.self_attn.q_proj.weight");
  EXPECT_THAT(qkv.sources[0].shape, ElementsAre(64, 48));
  EXPECT_EQ(qkv.sources[1].name, "model.layers.1.self_attn.k_proj.weight");
  EXPECT_EQ(qkv.sources[2].name, "model.layers.1.self_attn.v_proj.weight");
  EXPECT_THAT(qkv.sources[2].shape, ElementsAre(32, 48));
  const WeightSpec& gate_up = find(specs, "model.layers.1.mlp.gate_up_proj.weight");
  EXPECT_THAT(gate_up.shape, ElementsAre(160, 48));
  EXPECT_EQ(gate_up.sources[0].name, "model.layers.1.mlp.gate_proj.weight");
  EXPECT_EQ(gate_up.sources[1].name, "model.layers.1.mlp.up_proj.weight");
  EXPECT_THAT(find(specs, "model.layers.0.self_attn.o_proj.weight").shape, ElementsAre(48, 64));
  EXPECT_THAT(find(specs, "model.layers.0.mlp.down_proj.weight").shape, ElementsAre(48, 80));
}

TEST(WeightManifest, FamiliesAddTheirOwn) {
  ModelConfig config = small_config();
  config.attention_bias = true;
  config.qk_norm = true;
  config.tie_word_embeddings = false;
  const std::vector<WeightSpec> specs = weight_manifest(config);
  EXPECT_EQ(specs.size(), 2u * 9 + 3);
  const WeightSpec& bias = find(specs, "model.layers.0.self_attn.qkv_proj.bias");
  EXPECT_THAT(bias.shape, ElementsAre(128));
  EXPECT_EQ(bias.sources[1].name, "model.layers.0.self_attn.k_proj.bias");
  EXPECT_THAT(bias.sources[1].shape, ElementsAre(32));
  EXPECT_THAT(find(specs, "model.layers.0.self_attn.q_norm.weight").shape, ElementsAre(16));
  EXPECT_THAT(find(specs, "model.layers.1.self_attn.k_norm.weight").shape, ElementsAre(16));
  EXPECT_EQ(specs.back().name, "lm_head.weight");
  EXPECT_THAT(specs.back().shape, ElementsAre(100, 48));
}

TEST(WeightManifest, NamesAreUniqueAndSourcesFillTheirTarget) {
  ModelConfig config = small_config();
  config.attention_bias = config.qk_norm = true;
  config.tie_word_embeddings = false;
  std::set<std::string> targets;
  std::set<std::string> sources;
  for (const WeightSpec& spec : weight_manifest(config)) {
    EXPECT_TRUE(targets.insert(spec.name).second) << spec.name;
    std::int64_t rows = 0;
    for (const WeightSource& source : spec.sources) {
      EXPECT_TRUE(sources.insert(source.name).second) << source.name;
      EXPECT_EQ(source.shape.size(), spec.shape.size());
      if (spec.shape.size() == 2) EXPECT_EQ(source.shape[1], spec.shape[1]);
      rows += source.shape[0];
    }
    EXPECT_EQ(rows, spec.shape[0]) << spec.name;
  }
}

TEST(WeightManifest, B2_ignorable_names) {
  EXPECT_TRUE(is_ignorable_source("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(is_ignorable_source("model.layers.31.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(is_ignorable_source("model.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_ignorable_source("rotary_emb.inv_freq"));
  EXPECT_FALSE(is_ignorable_source("model.layers..self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_ignorable_source("model.layers.x.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_ignorable_source("model.layers.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_ignorable_source("model.layers.0.self_attn.rotary_emb.inv_freq.more"));
  EXPECT_FALSE(is_ignorable_source("lm_head.weight"));
  EXPECT_FALSE(is_ignorable_source(""));
}

}  // namespace
}  // namespace moa_rt
