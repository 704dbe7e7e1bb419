#include "model/model_manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/sha256.h"
#include "moa_rt/error.h"
#include "model/weight_manifest.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

using nlohmann::ordered_json;
using testing::expect_error;

const std::string kHash(64, 'a');

ordered_json good() {
  return {{"format", "moa_rt-model"},
          {"version", 1},
          {"fingerprint", kHash},
          {"dtype", "bfloat16"},
          {"source", {{"kind", "gguf"}, {"name", "model.gguf"}}},
          {"files",
           {{"config.json", {{"bytes", 5}, {"sha256", kHash}}},
            {"model.safetensors",
             {{"bytes", 7}, {"sha256", kHash}, {"header_sha256", std::string(64, 'b')}}}}},
          {"tensors", {{"model.norm.weight", kHash}}}};
}

template <typename Expected>
void refuse(const ordered_json& manifest, std::vector<std::string> words) {
  words.push_back("dir/manifest.json");
  expect_error<Expected>([&] { ModelManifest::parse(manifest.dump(), "dir/manifest.json"); },
                         words);
}

ordered_json with_file(const std::string& name) {
  ordered_json manifest = good();
  manifest["files"][name] = {{"bytes", 1}, {"sha256", kHash}};
  return manifest;
}

TEST(ModelManifest, Reads) {
  const ModelManifest manifest = ModelManifest::parse(good().dump(), "manifest.json");
  EXPECT_EQ(manifest.fingerprint, kHash);
  EXPECT_EQ(manifest.dtype, DType::kBF16);
  EXPECT_EQ(manifest.source.at("kind"), "gguf");
  EXPECT_EQ(manifest.files.at("config.json").bytes, 5);
  EXPECT_EQ(manifest.files.at("model.safetensors").header_sha256, std::string(64, 'b'));
  EXPECT_EQ(manifest.tensors.at("model.norm.weight"), kHash);
}

TEST(ModelManifest, I11_directory_without_one) {
  const testing::TempDir dir;
  expect_error<IoError>([&] { ModelManifest::load(dir.path()); },
                        {"manifest.json", "No such file", "moa-tools convert"});
}

TEST(ModelManifest, WrongFormatOrVersion) {
  ordered_json manifest = good();
  manifest["format"] = "other";
  refuse<FormatError>(manifest, {"format", "other", "moa_rt-model"});
  manifest = good();
  manifest["version"] = 2;
  refuse<UnsupportedError>(manifest, {"manifest version 2, this build reads 1"});
  for (const ordered_json& version : {ordered_json(0), ordered_json("1"), ordered_json(1.0)}) {
    manifest["version"] = version;
    refuse<FormatError>(manifest, {"version"});
  }
}

TEST(ModelManifest, EveryFieldIsNeeded) {
  for (const char* field :
       {"format", "version", "fingerprint", "dtype", "source", "files", "tensors"}) {
    ordered_json manifest = good();
    manifest.erase(field);
    refuse<FormatError>(manifest, {field});
    manifest[field] = true;
    refuse<FormatError>(manifest, {field});
  }
  ordered_json manifest = good();
  manifest["more"] = 1;
  refuse<FormatError>(manifest, {"more", "unknown key"});
}

TEST(ModelManifest, HashesAndSizes) {
  for (const std::string& bad :
       {std::string(), std::string(63, 'a'), std::string(64, 'A'), std::string(64, 'g')}) {
    ordered_json manifest = good();
    manifest["fingerprint"] = bad;
    refuse<FormatError>(manifest, {"fingerprint", "64 lower-case hex digits"});
    manifest = good();
    manifest["tensors"]["model.norm.weight"] = bad;
    refuse<FormatError>(manifest, {"tensors", "model.norm.weight"});
    manifest = good();
    manifest["files"]["config.json"]["sha256"] = bad;
    refuse<FormatError>(manifest, {"config.json", "sha256"});
  }
  ordered_json manifest = good();
  manifest["files"]["config.json"]["bytes"] = -1;
  refuse<FormatError>(manifest, {"config.json", "bytes"});
  manifest = good();
  manifest["files"]["model.safetensors"].erase("header_sha256");
  refuse<FormatError>(manifest, {"model.safetensors", "header_sha256"});
  for (const char* needed : {"config.json", "model.safetensors"}) {
    manifest = good();
    manifest["files"].erase(needed);
    refuse<FormatError>(manifest, {needed, "not listed"});
  }
}

TEST(ModelManifest, B10_only_plain_file_names) {
  for (const char* name : {"../x", "/etc/passwd", "a/b", "C:\\x", "..\\x", "", ".", ".."}) {
    refuse<FormatError>(with_file(name), {"files", "a plain file name"});
  }
  refuse<FormatError>(with_file(std::string("a\0b", 3)), {"a plain file name"});
  refuse<FormatError>(with_file(std::string(256, 'a')), {"a plain file name"});
  ModelManifest::parse(with_file("tokenizer.json").dump(), "manifest.json");
}

// A fingerprint written out by hand, so that the canonical text cannot change unnoticed: plans hold
// it.
class Fingerprint : public ::testing::Test {
 protected:
  Fingerprint() {
    config_.hidden_size = 8;
    config_.intermediate_size = 12;
    config_.num_hidden_layers = 1;
    config_.num_attention_heads = 2;
    config_.num_key_value_heads = 1;
    config_.head_dim = 8;
    config_.vocab_size = 10;
    config_.rms_norm_eps = 1e-5;
    config_.tie_word_embeddings = true;
    for (const WeightSpec& spec : weight_manifest(config_)) {
      digests_.push_back({spec.name, DType::kBF16, spec.shape, sha256_hex(spec.name)});
    }
  }
  std::string fingerprint() const { return model_fingerprint(config_, digests_); }

  ModelConfig config_;
  std::vector<TensorDigest> digests_;
};

TEST_F(Fingerprint, CanonicalText) {
  std::string text =
      "moa_rt-fingerprint 1\n"
      "hidden_size 8\nintermediate_size 12\nnum_hidden_layers 1\nnum_attention_heads 2\n"
      "num_key_value_heads 1\nhead_dim 8\nvocab_size 10\nrms_norm_eps 1e-05\n"
      "tie_word_embeddings 1\nattention_bias 0\nqk_norm 0\n"
      "rope_type default\nrope_theta 10000\nrope_factor 1\nrope_low_freq_factor 1\n"
      "rope_high_freq_factor 4\nrope_original_max_position_embeddings 0\n";
  const auto line = [&](const std::string& name, const std::string& shape) {
    text += name + " bfloat16 " + shape + " " + sha256_hex(name) + "\n";
  };
  line("model.embed_tokens.weight", "10x8");
  line("model.layers.0.input_layernorm.weight", "8");
  line("model.layers.0.self_attn.qkv_proj.weight", "32x8");
  line("model.layers.0.self_attn.o_proj.weight", "8x16");
  line("model.layers.0.post_attention_layernorm.weight", "8");
  line("model.layers.0.mlp.gate_up_proj.weight", "24x8");
  line("model.layers.0.mlp.down_proj.weight", "8x12");
  line("model.norm.weight", "8");
  EXPECT_EQ(fingerprint(), sha256_hex(text));
}

TEST_F(Fingerprint, FollowsWhatTheModelComputesAndNothingElse) {
  const std::string before = fingerprint();
  std::reverse(digests_.begin(), digests_.end());
  config_.eos_token_ids = {3};
  config_.bos_token_id = 1;
  config_.max_position_embeddings = 4096;
  config_.model_type = "llama";
  config_.torch_dtype = DType::kF32;
  EXPECT_EQ(fingerprint(), before);
  config_.rope.theta = 10001.0;
  EXPECT_NE(fingerprint(), before);
  config_.rope.theta = 10000.0;
  digests_[2].sha256 = std::string(64, '0');
  EXPECT_NE(fingerprint(), before);
}

TEST_F(Fingerprint, WrongTensors) {
  digests_.push_back({"extra", DType::kF32, {1}, kHash});
  expect_error<MismatchError>([&] { fingerprint(); }, {"got 9 tensors", "want 8"});
  digests_.pop_back();
  digests_[0].shape = {8, 10};
  expect_error<MismatchError>([&] { fingerprint(); }, {"model.embed_tokens.weight"});
  digests_[0] = digests_[1];  // twice the same, one missing
  expect_error<MismatchError>([&] { fingerprint(); }, {"model_fingerprint"});
}

}  // namespace
}  // namespace moa_rt
