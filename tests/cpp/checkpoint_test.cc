#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "moa_rt/error.h"
#include "support/errors.h"
#include "support/fake_backend.h"
#include "support/model_directory.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::FakeBackend;
using testing::ModelDirectory;
using testing::pattern;

json llama(int layers = 2) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 24},
          {"intermediate_size", 40},
          {"num_hidden_layers", layers},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 8},
          {"vocab_size", 50},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true}};
}

json untied(const std::string& architecture, const std::string& model_type) {
  json config = llama();
  config["architectures"] = {architecture};
  config["model_type"] = model_type;
  config["tie_word_embeddings"] = false;
  return config;
}

class CheckpointTest : public ::testing::Test {
 protected:
  Checkpoint open() const { return {dir_.path(), ModelConfig::load(dir_.path())}; }
  ModelWeights load(FakeBackend& backend, DType dtype) const { return open().load(backend, dtype); }

  template <typename Expected>
  std::string refuse(const ModelDirectory& model, const std::vector<std::string>& words) const {
    model.write(dir_.path());
    return expect_error<Expected>([&] { open(); }, words);
  }

  std::string weights_path() const { return dir_.path() + "/model.safetensors"; }

  testing::TempDir dir_;
};

// Every element against the pattern that ModelDirectory wrote for tensor number `tensor`.
void expect_pattern(const std::vector<float>& got, std::size_t tensor) {
  ASSERT_FALSE(got.empty());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i], pattern(tensor, i)) << "tensor " << tensor << " element " << i;
  }
}

void expect_matrix(const Matrix& matrix, DType dtype, std::vector<std::int64_t> shape,
                   std::size_t tensor) {
  EXPECT_EQ(matrix.dtype, dtype);
  ASSERT_EQ(matrix.rows, shape[0]);
  ASSERT_EQ(matrix.cols, shape[1]);
  std::vector<float> values(static_cast<std::size_t>(matrix.rows * matrix.cols));
  convert_elements(
      std::span(matrix.storage.data(), static_cast<std::size_t>(matrix.storage.bytes())), dtype,
      std::as_writable_bytes(std::span(values)), DType::kF32);
  expect_pattern(values, tensor);
}

void expect_vector(const Tensor& tensor, std::int64_t size, std::size_t number) {
  EXPECT_EQ(tensor.dtype(), DType::kF32);
  ASSERT_EQ(tensor.elements(), size);
  expect_pattern({tensor.data<float>(), tensor.data<float>() + size}, number);
}

TEST_F(CheckpointTest, TiedLlamaFloat32) {
  ModelDirectory(llama(), DType::kF32).write(dir_.path());
  FakeBackend backend(7);
  const ModelWeights weights = load(backend, DType::kF32);
  expect_matrix(weights.embedding, DType::kF32, {50, 24}, 0);
  EXPECT_TRUE(weights.lm_head.empty());
  EXPECT_EQ(&weights.head(), &weights.embedding);
  ASSERT_EQ(weights.layers.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    const LayerWeights& layer = weights.layers[i];
    const std::size_t first = 1 + 6 * i;
    expect_vector(layer.input_norm, 24, first);
    expect_matrix(layer.qkv, DType::kF32, {64, 24}, first + 1);
    expect_matrix(layer.output, DType::kF32, {24, 32}, first + 2);
    expect_vector(layer.post_norm, 24, first + 3);
    expect_matrix(layer.gate_up, DType::kF32, {80, 24}, first + 4);
    expect_matrix(layer.down, DType::kF32, {24, 40}, first + 5);
    EXPECT_TRUE(layer.qkv_bias.empty());
    EXPECT_TRUE(layer.query_norm.empty());
    EXPECT_TRUE(layer.key_norm.empty());
  }
  expect_vector(weights.final_norm, 24, 13);
}

TEST_F(CheckpointTest, Qwen2WithBiasesFromBfloat16) {
  ModelDirectory(untied("Qwen2ForCausalLM", "qwen2"), DType::kBF16).write(dir_.path());
  FakeBackend backend;
  const ModelWeights weights = load(backend, DType::kF32);
  expect_matrix(weights.layers[1].qkv, DType::kF32, {64, 24}, 1 + 7 + 1);
  expect_vector(weights.layers[1].qkv_bias, 64, 1 + 7 + 2);
  expect_matrix(weights.lm_head, DType::kF32, {50, 24}, 16);
  EXPECT_EQ(&weights.head(), &weights.lm_head);
}

TEST_F(CheckpointTest, Qwen3WithHeadNormsFromHalfToBfloat16) {
  ModelDirectory(untied("Qwen3ForCausalLM", "qwen3"), DType::kF16).write(dir_.path());
  FakeBackend backend(1);
  const ModelWeights weights = load(backend, DType::kBF16);
  EXPECT_EQ(open().stored_dtype(), DType::kF16);
  expect_vector(weights.layers[0].query_norm, 8, 3);
  expect_vector(weights.layers[0].key_norm, 8, 4);
  expect_matrix(weights.layers[0].output, DType::kBF16, {24, 32}, 5);
}

TEST_F(CheckpointTest, EveryPairOfTypes) {
  for (const DType stored : {DType::kF32, DType::kBF16, DType::kF16}) {
    ModelDirectory(llama(), stored).write(dir_.path());
    EXPECT_EQ(open().stored_dtype(), stored);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      FakeBackend backend(5);
      const ModelWeights weights = load(backend, dtype);
      expect_matrix(weights.embedding, dtype, {50, 24}, 0);
      expect_matrix(weights.layers[1].down, dtype, {24, 40}, 12);
      expect_vector(weights.final_norm, 24, 13);
    }
  }
}

TEST_F(CheckpointTest, MatrixLargerThanOneBlockOfConversion) {
  json config = llama(1);
  config["vocab_size"] = 100'003;  // 4.8 MB of bfloat16 in one read
  ModelDirectory(config, DType::kBF16).write(dir_.path());
  FakeBackend backend;
  const ModelWeights weights = load(backend, DType::kF32);
  expect_matrix(weights.embedding, DType::kF32, {100'003, 24}, 0);
}

TEST_F(CheckpointTest, PredictsBytesFromShapes) {
  for (const json& config :
       {llama(), untied("Qwen2ForCausalLM", "qwen2"), untied("Qwen3ForCausalLM", "qwen3")}) {
    ModelDirectory(config, DType::kF32).write(dir_.path());
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      FakeBackend backend;
      const ModelWeights weights = load(backend, dtype);
      EXPECT_EQ(Checkpoint::predict_bytes(ModelConfig::load(dir_.path()), backend, dtype),
                backend.allocator().live_bytes());
    }
  }
}

TEST_F(CheckpointTest, ConfigCarriesTheFingerprint) {
  const ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  EXPECT_EQ(ModelConfig::load(dir_.path()).fingerprint,
            model.manifest()["fingerprint"].get<std::string>());
}

TEST_F(CheckpointTest, B1_missing_tensors_are_all_listed) {
  ModelDirectory model(llama(), DType::kF32);
  model.erase("model.norm.weight");
  model.erase("model.layers.1.mlp.down_proj.weight");
  refuse<MismatchError>(model, {weights_path(), "2 tensors", "model.norm.weight",
                                "model.layers.1.mlp.down_proj.weight\" is missing, want [24,40]"});
}

TEST_F(CheckpointTest, B1_long_lists_are_cut_at_20) {
  ModelDirectory model(llama(5), DType::kF32);
  std::erase_if(model.tensors,
                [](const auto& tensor) { return tensor.name.find("layers") != std::string::npos; });
  const std::string text = refuse<MismatchError>(
      model, {"30 tensors", "model.layers.3.input_layernorm.weight", "and 10 more"});
  EXPECT_THAT(text, ::testing::Not(::testing::HasSubstr("model.layers.4.")));
}

TEST_F(CheckpointTest, B2_extra_tensor_in_a_file_of_ours) {
  ModelDirectory model(llama(), DType::kF32);
  model.tensors.push_back({"model.layers.9.extra", "F32", {1}, "ABCD"});
  refuse<MismatchError>(model, {"model.layers.9.extra", "not part of this model"});
}

TEST_F(CheckpointTest, B4_untied_without_lm_head) {
  ModelDirectory model(untied("LlamaForCausalLM", "llama"), DType::kF32);
  model.erase("lm_head.weight");
  refuse<MismatchError>(model, {"lm_head.weight", "is missing"});
}

TEST_F(CheckpointTest, B5_transposed_tensor) {
  ModelDirectory model(llama(), DType::kF32);
  model.at("model.layers.0.mlp.down_proj.weight").shape = {40, 24};
  refuse<MismatchError>(model,
                        {"model.layers.0.mlp.down_proj.weight", "got [40,24], want [24,40]"});
}

TEST_F(CheckpointTest, B5_hugging_face_names_are_not_fused) {
  ModelDirectory model(llama(), DType::kF32);
  model.at("model.layers.0.self_attn.qkv_proj.weight").name =
      "model.layers.0.self_attn.q_proj.weight";
  refuse<MismatchError>(model, {"qkv_proj.weight\" is missing", "q_proj.weight\" is not part"});
}

TEST_F(CheckpointTest, C3_head_dim_that_the_weights_contradict) {
  ModelDirectory model(llama(), DType::kF32);
  json config = llama();
  config["head_dim"] = 16;
  model.config_text = config.dump();
  refuse<MismatchError>(model, {"self_attn.qkv_proj.weight", "got [64,24], want [128,24]"});
}

TEST_F(CheckpointTest, A18_scalar_where_a_vector_is_needed) {
  ModelDirectory model(llama(), DType::kF32);
  model.at("model.norm.weight").shape = {};
  model.at("model.norm.weight").bytes.resize(4);
  refuse<MismatchError>(model, {"model.norm.weight", "got [], want [24]"});
}

TEST_F(CheckpointTest, A19_empty_tensor_where_a_weight_is_needed) {
  ModelDirectory model(llama(), DType::kF32);
  model.at("model.norm.weight").shape = {0};
  model.at("model.norm.weight").bytes.clear();
  refuse<MismatchError>(model, {"model.norm.weight", "got [0], want [24]"});
}

TEST_F(CheckpointTest, B6_types_may_differ_between_tensors) {
  ModelDirectory model(llama(), DType::kBF16);
  testing::StoredTensor& norm = model.at("model.norm.weight");
  std::vector<float> values(24);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = pattern(13, i);
  norm.dtype = "F32";
  norm.bytes = testing::encode(values, DType::kF32);
  model.write(dir_.path());
  FakeBackend backend;
  const ModelWeights weights = load(backend, DType::kBF16);
  expect_vector(weights.final_norm, 24, 13);
  EXPECT_EQ(open().stored_dtype(), DType::kBF16);
}

TEST_F(CheckpointTest, B6_type_that_is_no_weight) {
  ModelDirectory model(llama(), DType::kF32);
  model.at("model.norm.weight").dtype = "I32";
  refuse<UnsupportedError>(model, {"model.norm.weight", "I32", "F32, BF16 or F16"});
}

TEST_F(CheckpointTest, B11_file_shorter_than_listed) {
  const ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  const auto size = std::filesystem::file_size(weights_path());
  std::filesystem::resize_file(weights_path(), size - 1);
  expect_error<FormatError>([&] { open(); }, {weights_path(), std::to_string(size - 1),
                                              std::to_string(size) + " as in manifest.json"});
}

TEST_F(CheckpointTest, I6_file_that_shrinks_during_load) {
  ModelDirectory(llama(), DType::kF32).write(dir_.path());
  FakeBackend backend;
  int matrices = 0;
  backend.before_matrix = [&] {
    if (++matrices == 3) std::filesystem::resize_file(weights_path(), 5000);
  };
  expect_error<IoError>([&] { load(backend, DType::kF32); }, {weights_path(), "shorter"});
}

TEST_F(CheckpointTest, I6_file_that_is_rewritten_during_load) {
  ModelDirectory(llama(), DType::kF32).write(dir_.path());
  std::filesystem::last_write_time(
      weights_path(), std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  FakeBackend backend;
  backend.before_matrix = [&] {
    std::fstream file(weights_path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('!');
  };
  expect_error<IoError>([&] { load(backend, DType::kF32); },
                        {weights_path(), "changed while it was read"});
}

TEST_F(CheckpointTest, I11_unfinished_directory) {
  ModelDirectory(llama(), DType::kF32).write(dir_.path());
  std::filesystem::remove(dir_.path() + "/manifest.json");
  expect_error<IoError>([&] { open(); }, {"manifest.json", "moa-tools convert"});
}

void flip(const std::string& path, std::int64_t from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-from_end, std::ios::end);
  const int byte = file.get();
  file.seekp(-from_end, std::ios::end);
  file.put(static_cast<char>(byte ^ 1));
}

TEST_F(CheckpointTest, I12_verify_accepts_a_good_directory) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    ModelDirectory(llama(), dtype).write(dir_.path());
    Checkpoint::verify(dir_.path());
  }
}

TEST_F(CheckpointTest, I12_flipped_bit_in_a_tensor) {
  ModelDirectory(llama(), DType::kF32).write(dir_.path());
  flip(weights_path(), 10);  // in the last tensor
  open();                    // a load reads sizes and header only
  expect_error<FormatError>([&] { Checkpoint::verify(dir_.path()); },
                            {weights_path(), "tensor \"model.norm.weight\"", "sha256"});
  flip(weights_path(), 10);
  flip(weights_path(), 24 * 4 + 1);  // in the one before
  expect_error<FormatError>([&] { Checkpoint::verify(dir_.path()); },
                            {"tensor \"model.layers.1.mlp.down_proj.weight\""});
}

TEST_F(CheckpointTest, I12_changed_header_is_found_by_every_load) {
  ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  // Two tensors of one shape change places: every size and offset stays right.
  std::swap(model.at("model.norm.weight").name,
            model.at("model.layers.0.input_layernorm.weight").name);
  const std::string header = model.header();
  std::fstream file(weights_path(), std::ios::in | std::ios::out | std::ios::binary);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  file.close();
  expect_error<FormatError>([&] { open(); }, {weights_path(), "header", "sha256"});
}

TEST_F(CheckpointTest, I12_changed_config) {
  ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  std::string text = model.config_text;
  text.replace(text.find("64,"), 3, "65,");  // max_position_embeddings
  testing::write_bytes(dir_.path() + "/config.json", text);
  expect_error<FormatError>([&] { Checkpoint::verify(dir_.path()); }, {"config.json", "sha256"});
}

TEST_F(CheckpointTest, I12_fingerprint_of_another_model) {
  const ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  json manifest = model.manifest();
  manifest["fingerprint"] = std::string(64, 'c');
  testing::write_bytes(dir_.path() + "/manifest.json", manifest.dump());
  expect_error<FormatError>([&] { Checkpoint::verify(dir_.path()); },
                            {"manifest.json", "fingerprint"});
}

TEST_F(CheckpointTest, I12_tensor_without_a_hash) {
  const ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  json manifest = model.manifest();
  manifest["tensors"].erase("model.norm.weight");
  testing::write_bytes(dir_.path() + "/manifest.json", manifest.dump());
  expect_error<FormatError>([&] { Checkpoint::verify(dir_.path()); },
                            {"model.norm.weight", "an entry in manifest.json"});
}

TEST_F(CheckpointTest, ListedFileThatIsMissing) {
  const ModelDirectory model(llama(), DType::kF32);
  model.write(dir_.path());
  json manifest = model.manifest();
  manifest["files"]["tokenizer.json"] = {{"bytes", 3}, {"sha256", std::string(64, 'a')}};
  testing::write_bytes(dir_.path() + "/manifest.json", manifest.dump());
  expect_error<IoError>([&] { open(); }, {"tokenizer.json", "No such file"});
}

}  // namespace
}  // namespace moa_rt
