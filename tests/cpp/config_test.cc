// Rows C1 to C14 of the catalogue of bad inputs; C10 ends in the engine, which knows the tokenizer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "moa_rt/error.h"
#include "moa_rt/model_config.h"
#include "support/errors.h"
#include "support/safetensors_writer.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

using nlohmann::ordered_json;
using testing::expect_error;

// A config.json as published for Llama-3-8B.
ordered_json llama() {
  return ordered_json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.40.0",
    "use_cache": true, "vocab_size": 128256})");
}

ordered_json family(const std::string& architecture, const std::string& model_type) {
  ordered_json config = llama();
  config["architectures"] = {architecture};
  config["model_type"] = model_type;
  config.erase("attention_bias");
  return config;
}

ordered_json mistral() {
  ordered_json config = family("MistralForCausalLM", "mistral");
  config["sliding_window"] = nullptr;
  return config;
}

ordered_json qwen2() {
  ordered_json config = family("Qwen2ForCausalLM", "qwen2");
  config["use_sliding_window"] = false;
  config["sliding_window"] = 4096;
  config["max_window_layers"] = 28;
  return config;
}

ordered_json qwen3() {
  ordered_json config = family("Qwen3ForCausalLM", "qwen3");
  config["head_dim"] = 128;
  config["hidden_size"] = 1024;
  config["num_attention_heads"] = 16;
  return config;
}

ModelConfig parse(const ordered_json& config) {
  return ModelConfig::parse(config.dump(), "dir/config.json");
}

ordered_json with(ordered_json config, const std::string& key, const ordered_json& value) {
  config[key] = value;
  return config;
}

ordered_json without(ordered_json config, const std::string& key) {
  config.erase(key);
  return config;
}

template <typename Expected>
void refuse_text(const std::string& text, std::vector<std::string> words) {
  words.push_back("dir/config.json");
  expect_error<Expected>([&] { ModelConfig::parse(text, "dir/config.json"); }, words);
}

template <typename Expected>
void refuse(const ordered_json& config, std::vector<std::string> words) {
  refuse_text<Expected>(config.dump(), std::move(words));
}

TEST(Config, ReadsLlama) {
  const ModelConfig config = parse(llama());
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.hidden_size, 4096);
  EXPECT_EQ(config.intermediate_size, 14336);
  EXPECT_EQ(config.num_hidden_layers, 32);
  EXPECT_EQ(config.num_attention_heads, 32);
  EXPECT_EQ(config.num_key_value_heads, 8);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.vocab_size, 128256);
  EXPECT_EQ(config.max_position_embeddings, 8192);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_FALSE(config.qk_norm);
  EXPECT_EQ(config.torch_dtype, DType::kBF16);
  EXPECT_EQ(config.bos_token_id, 128000);
  EXPECT_THAT(config.eos_token_ids, ::testing::ElementsAre(128001));
  EXPECT_EQ(config.fingerprint, "");
  EXPECT_EQ(config.query_size(), 4096);
  EXPECT_EQ(config.kv_size(), 1024);
  EXPECT_EQ(config.qkv_size(), 6144);
}

TEST(Config, ReadsTheOtherFamilies) {
  EXPECT_EQ(parse(mistral()).model_type, "mistral");
  EXPECT_TRUE(parse(qwen2()).attention_bias);
  EXPECT_FALSE(parse(qwen2()).qk_norm);
  EXPECT_TRUE(parse(qwen3()).qk_norm);
  EXPECT_FALSE(parse(qwen3()).attention_bias);
  EXPECT_EQ(parse(qwen3()).head_dim, 128);
  EXPECT_EQ(parse(qwen3()).query_size(), 2048);
}

TEST(Config, OldLlamaLeavesOutKvHeadsAndTheta) {
  const ModelConfig config = parse(
      without(without(without(llama(), "num_key_value_heads"), "rope_theta"), "rope_scaling"));
  EXPECT_EQ(config.num_key_value_heads, 32);
  EXPECT_EQ(config.rope.theta, 10000.0);
}

TEST(Config, NewerSpellingOfTheSameModel) {
  ordered_json config =
      without(without(without(llama(), "rope_theta"), "rope_scaling"), "torch_dtype");
  config["dtype"] = "float16";
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  config["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(parse(config).rope.theta, 500000.0);
  EXPECT_EQ(parse(config).torch_dtype, DType::kF16);
}

TEST(Config, SmallHeadDimsParse) {
  for (const int head_dim : {8, 16, 64, 80, 96, 128, 256}) {
    EXPECT_EQ(parse(with(llama(), "head_dim", head_dim)).head_dim, head_dim);
  }
}

TEST(Config, C1_missing_file_and_directory) {
  const testing::TempDir dir;
  expect_error<IoError>([&] { ModelConfig::load(dir.path()); }, {"config.json", "No such file"});
  std::filesystem::create_directory(dir.path() + "/config.json");
  expect_error<IoError>([&] { ModelConfig::load(dir.path()); }, {"config.json", "Is a directory"});
}

TEST(Config, C1_no_json_object) {
  refuse_text<FormatError>("", {"at byte"});
  refuse_text<FormatError>("[]", {"want an object"});
  refuse_text<FormatError>("null", {"want an object"});
  refuse_text<FormatError>("\"text\"", {"want an object"});
  refuse_text<FormatError>(llama().dump() + "{}", {"at byte"});
  refuse_text<FormatError>(llama().dump() + std::string(1, '\0'), {"NUL byte"});
  refuse_text<FormatError>("\xef\xbb\xbf" + llama().dump(), {"byte order mark"});
}

TEST(Config, C1_one_gigabyte) {
  const testing::TempDir dir;
  testing::write_bytes(dir.path() + "/config.json", llama().dump());
  std::filesystem::resize_file(dir.path() + "/config.json", 1'000'000'000);
  expect_error<FormatError>([&] { ModelConfig::load(dir.path()); },
                            {"config.json", "got 1000000000 bytes", "at most"});
}

TEST(Config, C1_nan_and_infinity_literals) {
  for (const char* literal : {"NaN", "Infinity", "-Infinity", "nan", "inf"}) {
    refuse_text<FormatError>(std::string(R"({"rms_norm_eps":)") + literal + "}", {"at byte"});
  }
}

TEST(Config, C1_duplicate_keys) {
  std::string text = llama().dump();
  text.back() = ',';
  refuse_text<FormatError>(text + R"("hidden_size":64})", {"hidden_size", "duplicate key"});
}

TEST(Config, C1_deep_nesting) {
  refuse_text<FormatError>("{\"x_a\":" + std::string(100'000, '['), {"depth > 16"});
}

// One corpus for every reader: each file's name begins with its error class.
TEST(Config, C1_kept_corpus_has_its_verdicts) {
  std::size_t count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::string(MOA_RT_TEST_DATA) + "/malformed/config")) {
    if (entry.path().extension() != ".json") continue;
    ++count;
    const std::string name = entry.path().filename();
    std::ostringstream text;
    text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    std::string verdict = "OK";
    try {
      ModelConfig::parse(text.str(), name);
    } catch (const Error& error) {
      verdict = error_name(error.code());
    }
    EXPECT_TRUE(name.starts_with(verdict + "_")) << name << ": " << verdict;
  }
  EXPECT_GE(count, 20u);
}

constexpr const char* kRequired[] = {
    "architectures",     "model_type",          "hidden_size", "intermediate_size",
    "num_hidden_layers", "num_attention_heads", "vocab_size",  "max_position_embeddings",
    "rms_norm_eps"};

TEST(Config, C2_absent_and_null) {
  for (const char* field : kRequired) {
    refuse<FormatError>(without(llama(), field), {field});
    refuse<FormatError>(with(llama(), field, nullptr), {field, "null"});
  }
  for (const ordered_json& config : {mistral(), qwen2(), qwen3()}) {
    refuse<FormatError>(without(config, "num_key_value_heads"), {"num_key_value_heads"});
  }
  refuse<FormatError>(without(qwen3(), "head_dim"), {"head_dim"});
}

TEST(Config, C2_wrong_type) {
  for (const char* field :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const ordered_json& bad : {ordered_json("32"), ordered_json(32.0), ordered_json(true),
                                    ordered_json::array({32}), ordered_json::object()}) {
      refuse<FormatError>(with(llama(), field, bad), {field, bad.type_name(), "an integer in"});
    }
  }
  for (const char* field : {"rms_norm_eps", "rope_theta"}) {
    for (const ordered_json& bad :
         {ordered_json("1e-5"), ordered_json(true), ordered_json::array({1})}) {
      refuse<FormatError>(with(llama(), field, bad), {field, bad.type_name(), "a number in"});
    }
  }
  refuse<FormatError>(with(llama(), "tie_word_embeddings", 1), {"tie_word_embeddings", "true or"});
  refuse<FormatError>(with(llama(), "attention_bias", "false"), {"attention_bias", "true or"});
  refuse<FormatError>(with(llama(), "model_type", 1), {"model_type", "a string"});
  refuse<FormatError>(with(llama(), "torch_dtype", 16), {"torch_dtype", "a string"});
  refuse<FormatError>(with(llama(), "architectures", "LlamaForCausalLM"),
                      {"architectures", "an array"});
  refuse<FormatError>(with(llama(), "rope_scaling", "linear"), {"rope_scaling", "an object"});
  refuse<FormatError>(with(llama(), "hidden_act", 1), {"hidden_act", "a string"});
}

TEST(Config, C3_hidden_size_that_heads_do_not_divide) {
  refuse<MismatchError>(with(llama(), "hidden_size", 4100),
                        {"hidden_size", "4100", "4100 = 128 * 32 + 4"});
  EXPECT_EQ(parse(with(with(llama(), "hidden_size", 4100), "head_dim", 128)).head_dim, 128);
  // A head_dim that is given holds; whether it is right, the shape of q_proj tells
  // (checkpoint_test).
  EXPECT_EQ(parse(with(llama(), "head_dim", 64)).query_size(), 2048);
}

TEST(Config, C4_kv_heads_that_do_not_divide_heads) {
  refuse<MismatchError>(with(llama(), "num_key_value_heads", 5),
                        {"num_key_value_heads", "got 5", "32 = 6 * 5 + 2"});
  refuse<MismatchError>(with(llama(), "num_key_value_heads", 64),
                        {"num_key_value_heads", "got 64", "num_attention_heads = 32"});
  refuse<MismatchError>(with(llama(), "num_key_value_heads", 0),
                        {"num_key_value_heads", "got 0", "num_attention_heads = 32"});
}

TEST(Config, C5_sizes_out_of_range) {
  for (const char* field : {"hidden_size", "intermediate_size", "num_hidden_layers",
                            "num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    for (const char* bad : {"0", "-1", "2147483648", "9223372036854775808", "18446744073709551615",
                            "18446744073709551616"}) {
      std::string text = with(llama(), field, "@").dump();
      text.replace(text.find("\"@\""), 3, bad);
      refuse_text<FormatError>(text, {field, "an integer in 1.."});
    }
    std::string text = with(llama(), field, "@").dump();
    text.replace(text.find("\"@\""), 3, "1e400");
    refuse_text<FormatError>(text, {"at byte"});
  }
  refuse<FormatError>(with(llama(), "num_hidden_layers", 513), {"1..512"});
  refuse<FormatError>(with(llama(), "num_attention_heads", 513), {"1..512"});
  refuse<FormatError>(with(llama(), "hidden_size", 65537), {"1..65536"});
  refuse<FormatError>(with(llama(), "vocab_size", 1048577), {"1..1048576"});
  refuse<FormatError>(with(llama(), "max_position_embeddings", 2097153), {"1..2097152"});
  refuse<FormatError>(with(llama(), "num_key_value_heads", -8), {"num_key_value_heads"});
  refuse<FormatError>(with(llama(), "head_dim", 0), {"head_dim"});
}

TEST(Config, C6_head_dim_of_no_kernel) {
  for (const int head_dim : {1, 63, 100, 260, 512}) {
    refuse<UnsupportedError>(with(llama(), "head_dim", head_dim),
                             {"head_dim", std::to_string(head_dim), "multiple of 8 up to 256"});
  }
}

TEST(Config, C7_eps_and_theta) {
  for (const double bad : {0.0, -1e-6, 1e30}) {
    refuse<FormatError>(with(llama(), "rms_norm_eps", bad), {"rms_norm_eps", "a number in"});
  }
  for (const double bad : {0.0, -10000.0, 1e300}) {
    refuse<FormatError>(with(llama(), "rope_theta", bad), {"rope_theta", "a number in"});
  }
}

TEST(Config, C8_implemented_rope_types) {
  ModelConfig config = parse(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2.5}}));
  EXPECT_EQ(config.rope.type, RopeType::kLinear);
  EXPECT_EQ(config.rope.factor, 2.5);
  // An integer is promoted; both spellings may agree.
  config = parse(
      with(llama(), "rope_scaling", {{"type", "linear"}, {"rope_type", "linear"}, {"factor", 4}}));
  EXPECT_EQ(config.rope.factor, 4.0);
  const ordered_json llama3 = {{"rope_type", "llama3"},
                               {"factor", 8},
                               {"low_freq_factor", 1},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 8192}};
  for (const ModelConfig& read :
       {parse(with(llama(), "rope_scaling", llama3)),
        parse(with(without(without(llama(), "rope_scaling"), "rope_theta"), "rope_parameters",
                   with(llama3, "rope_theta", 500000)))}) {
    EXPECT_EQ(read.rope.type, RopeType::kLlama3);
    EXPECT_EQ(read.rope.theta, 500000.0);
    EXPECT_EQ(read.rope.factor, 8.0);
    EXPECT_EQ(read.rope.low_freq_factor, 1.0);
    EXPECT_EQ(read.rope.high_freq_factor, 4.0);
    EXPECT_EQ(read.rope.original_max_position_embeddings, 8192);
  }
}

TEST(Config, C8_rope_types_that_are_not_implemented) {
  for (const char* type : {"dynamic", "yarn", "longrope", "su", "mrope", "Linear", ""}) {
    for (const char* spelling : {"type", "rope_type"}) {
      refuse<UnsupportedError>(
          with(llama(), "rope_scaling", {{spelling, type}, {"factor", 2.0}}),
          {"rope_scaling", std::string("\"") + type + "\"", "default, linear, llama3"});
    }
    refuse<UnsupportedError>(with(without(llama(), "rope_scaling"), "rope_parameters",
                                  {{"rope_type", type}, {"rope_theta", 500000.0}}),
                             {"rope_parameters", "default, linear, llama3"});
  }
  refuse<UnsupportedError>(
      with(llama(), "rope_scaling", {{"type", "linear"}, {"rope_type", "yarn"}, {"factor", 2.0}}),
      {"type \"linear\" and rope_type \"yarn\" disagree"});
}

TEST(Config, C8_unknown_keys_of_a_known_rope_type) {
  refuse<UnsupportedError>(
      with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", 2.0}, {"beta_fast", 32}}),
      {"rope_scaling", "beta_fast", "linear"});
  refuse<UnsupportedError>(with(llama(), "rope_scaling", {{"type", "default"}, {"factor", 2.0}}),
                           {"factor", "default"});
  refuse<UnsupportedError>(with(llama(), "rope_scaling", {{"factor", 2.0}}), {"factor", "default"});
  refuse<UnsupportedError>(
      with(without(llama(), "rope_scaling"), "rope_parameters",
           {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}}}),
      {"full_attention"});
}

TEST(Config, C8_bad_values_of_a_known_rope_type) {
  for (const ordered_json& factor : {ordered_json(0.5), ordered_json(0), ordered_json(-2),
                                     ordered_json("2"), ordered_json(nullptr)}) {
    refuse<FormatError>(with(llama(), "rope_scaling", {{"type", "linear"}, {"factor", factor}}),
                        {"rope_scaling", "factor"});
  }
  refuse<FormatError>(with(llama(), "rope_scaling", {{"type", "linear"}}),
                      {"rope_scaling", "factor", "nothing"});
  const ordered_json llama3 = {{"rope_type", "llama3"},
                               {"factor", 8.0},
                               {"low_freq_factor", 1.0},
                               {"high_freq_factor", 4.0},
                               {"original_max_position_embeddings", 8192}};
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    refuse<FormatError>(with(llama(), "rope_scaling", without(llama3, key)), {"rope_scaling", key});
  }
  refuse<FormatError>(with(llama(), "rope_scaling", with(llama3, "high_freq_factor", 1.0)),
                      {"high_freq_factor", "more than low_freq_factor"});
}

TEST(Config, C8_two_places_that_disagree) {
  ordered_json config = llama();
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  refuse<MismatchError>(config, {"rope_theta", "rope_parameters"});
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  refuse<MismatchError>(config, {"rope_scaling", "rope_parameters"});
}

TEST(Config, C9_unknown_architecture) {
  refuse<UnsupportedError>(with(llama(), "architectures", {"GemmaForCausalLM"}),
                           {"architectures", "GemmaForCausalLM", "LlamaForCausalLM"});
  refuse<UnsupportedError>(with(llama(), "architectures", {"LlamaForCausalLM", "Qwen2ForCausalLM"}),
                           {"architectures", "2 entries"});
  refuse<UnsupportedError>(with(llama(), "architectures", ordered_json::array()),
                           {"architectures", "0 entries"});
  refuse<UnsupportedError>(with(llama(), "architectures", {1}), {"architectures"});
  refuse<MismatchError>(with(llama(), "model_type", "gemma"), {"model_type", "gemma", "llama"});
}

TEST(Config, C9_sliding_window) {
  refuse<UnsupportedError>(with(mistral(), "sliding_window", 4096),
                           {"sliding_window", "4096", "8192"});
  // Absent means 4096 in this family.
  refuse<UnsupportedError>(without(mistral(), "sliding_window"), {"sliding_window", "4096"});
  parse(with(mistral(), "sliding_window", 8192));
  refuse<UnsupportedError>(with(llama(), "sliding_window", 512), {"sliding_window", "512"});
  refuse<UnsupportedError>(with(qwen2(), "use_sliding_window", true), {"use_sliding_window"});
  refuse<UnsupportedError>(with(qwen3(), "layer_types", {"full_attention", "sliding_attention"}),
                           {"layer_types", "full_attention"});
}

TEST(Config, C9_biases) {
  refuse<UnsupportedError>(with(llama(), "attention_bias", true), {"attention_bias"});
  refuse<UnsupportedError>(with(qwen3(), "attention_bias", true), {"attention_bias"});
  refuse<UnsupportedError>(with(qwen2(), "attention_bias", false), {"attention_bias"});
  parse(with(qwen2(), "attention_bias", true));
  refuse<UnsupportedError>(with(llama(), "mlp_bias", true), {"mlp_bias"});
  parse(with(llama(), "mlp_bias", false));
}

TEST(Config, C9_features_nobody_here_knows) {
  const ordered_json features = {
      {"final_logit_softcapping", 30.0}, {"attn_logit_softcapping", 50.0},
      {"num_local_experts", 8},          {"num_experts_per_tok", 2},
      {"query_pre_attn_scalar", 256},    {"logit_scale", 0.0625},
      {"rope_interleaved", true},        {"use_mrope", true},
      {"is_encoder_decoder", true},      {"a_feature_of_tomorrow", "on"}};
  for (const auto& [key, value] : features.items()) {
    refuse<UnsupportedError>(with(llama(), key, value), {key});
  }
  // What is off asks for nothing, and notes of one's own are allowed.
  parse(with(llama(), "use_mrope", false));
  parse(with(llama(), "a_feature_of_tomorrow", nullptr));
  parse(with(llama(), "x_note", "mine"));
  parse(with(llama(), "_attn_implementation", "sdpa"));
}

TEST(Config, C9_partial_rotary) {
  refuse<UnsupportedError>(with(llama(), "partial_rotary_factor", 0.5), {"partial_rotary_factor"});
  parse(with(llama(), "partial_rotary_factor", 1.0));
  refuse<UnsupportedError>(
      with(without(llama(), "rope_scaling"), "rope_parameters",
           {{"rope_type", "default"}, {"rope_theta", 5e5}, {"partial_rotary_factor", 0.5}}),
      {"rope_parameters", "partial_rotary_factor"});
}

TEST(Config, C9_activation) {
  for (const char* name : {"gelu", "relu", "gelu_pytorch_tanh", "SiLU"}) {
    refuse<UnsupportedError>(with(llama(), "hidden_act", name), {"hidden_act", name, "silu"});
  }
}

TEST(Config, C10_vocab_size_is_the_rows_of_the_embedding) {
  EXPECT_EQ(parse(with(llama(), "vocab_size", 151936)).vocab_size, 151936);
}

TEST(Config, C11_token_ids) {
  for (const char* field : {"bos_token_id", "eos_token_id"}) {
    for (const std::int64_t bad :
         {std::int64_t{-1}, std::int64_t{128256}, std::int64_t{1} << 31, INT64_MAX}) {
      refuse<MismatchError>(with(llama(), field, bad),
                            {field, std::to_string(bad), "vocab_size = 128256"});
    }
    refuse<FormatError>(with(llama(), field, "1"), {field});
    refuse<FormatError>(with(llama(), field, true), {field});
    refuse<FormatError>(with(llama(), field, 2.0), {field});
  }
  refuse<MismatchError>(with(llama(), "eos_token_id", {1, 128256}), {"eos_token_id", "128256"});
  refuse<FormatError>(with(llama(), "eos_token_id", {1, "2"}), {"eos_token_id"});
  refuse<FormatError>(with(llama(), "eos_token_id", ordered_json(std::vector<int>(1000, 1))),
                      {"eos_token_id", "1000 ids"});
  EXPECT_THAT(parse(with(llama(), "eos_token_id", {7, 3, 7})).eos_token_ids,
              ::testing::ElementsAre(7, 3));
  EXPECT_TRUE(parse(with(llama(), "eos_token_id", nullptr)).eos_token_ids.empty());
  EXPECT_TRUE(parse(without(llama(), "eos_token_id")).eos_token_ids.empty());
  EXPECT_FALSE(parse(with(llama(), "bos_token_id", nullptr)).bos_token_id.has_value());
}

TEST(Config, C12_quantization) {
  refuse<UnsupportedError>(
      with(llama(), "quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}),
      {"quantization_config", "gptq"});
  refuse<UnsupportedError>(with(llama(), "quantization_config", ordered_json::object()),
                           {"quantization_config"});
  parse(with(llama(), "quantization_config", nullptr));
}

TEST(Config, C13_remote_code_is_ignored) {
  parse(with(llama(), "auto_map", {{"AutoModelForCausalLM", "modeling_evil.Evil"}}));
}

TEST(Config, C14_dtype_is_only_a_hint) {
  EXPECT_EQ(parse(with(llama(), "torch_dtype", "float32")).torch_dtype, DType::kF32);
  EXPECT_FALSE(parse(with(llama(), "torch_dtype", "float64")).torch_dtype.has_value());
  EXPECT_FALSE(parse(without(llama(), "torch_dtype")).torch_dtype.has_value());
  EXPECT_EQ(parse(with(llama(), "dtype", "float16")).torch_dtype, DType::kF16);
}

}  // namespace
}  // namespace moa_rt
