// Writes a small random model directory, as the converter would, for tests of the runtime.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "io/sha256.h"
#include "moa_rt/model_config.h"
#include "model/model_manifest.h"
#include "model/weight_manifest.h"

namespace moa_rt::testing {

struct TinyShape {
  std::string architecture = "LlamaForCausalLM";
  std::string model_type = "llama";
  std::int64_t layers = 3;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t head_dim = 64;
  std::int64_t hidden = 64;
  std::int64_t intermediate = 96;
  std::int64_t vocab = 320;
  std::int64_t max_positions = 2048;
  bool tied = true;
  std::uint32_t seed = 1;
  std::int64_t poisoned_token = -1;  // its embedding row is NaN
};

inline nlohmann::json tiny_config(const TinyShape& shape) {
  return {{"architectures", {shape.architecture}},
          {"model_type", shape.model_type},
          {"hidden_size", shape.hidden},
          {"intermediate_size", shape.intermediate},
          {"num_hidden_layers", shape.layers},
          {"num_attention_heads", shape.heads},
          {"num_key_value_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"vocab_size", shape.vocab},
          {"max_position_embeddings", shape.max_positions},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", shape.tied},
          {"eos_token_id", 0},
          {"torch_dtype", "float32"}};
}

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// Float32 weights with the spread of a trained model: norms near 1, matrices of unit gain.
inline std::vector<float> tiny_weights(const WeightSpec& spec, std::mt19937& random) {
  std::int64_t count = 1;
  for (const std::int64_t dim : spec.shape) count *= dim;
  const bool norm = spec.name.find("norm") != std::string::npos;
  const float scale = norm ? 0.1f : 1.5f / std::sqrt(static_cast<float>(spec.shape.back()));
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = (norm ? 1.0f : 0.0f) + scale * normal(random);
  return values;
}

inline void write_tiny_model(const std::string& dir, const TinyShape& shape = {}) {
  const std::string config_text = tiny_config(shape).dump();
  write_file(dir + "/config.json", config_text);
  const ModelConfig config = ModelConfig::parse(config_text, "config.json");

  std::mt19937 random(shape.seed);
  nlohmann::ordered_json header;
  std::string data;
  std::vector<TensorDigest> digests;
  nlohmann::json tensor_hashes;
  for (const WeightSpec& spec : weight_manifest(config)) {
    std::vector<float> values = tiny_weights(spec, random);
    if (shape.poisoned_token >= 0 && spec.name == weight_names::kEmbedding) {
      values[static_cast<std::size_t>(shape.poisoned_token * shape.hidden)] = NAN;
    }
    const std::string bytes(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    header[spec.name] = {{"dtype", "F32"},
                         {"shape", spec.shape},
                         {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
    digests.push_back({spec.name, DType::kF32, spec.shape, sha256_hex(bytes)});
    tensor_hashes[spec.name] = digests.back().sha256;
  }
  const std::string header_text = header.dump();
  const auto length =
      std::bit_cast<std::array<char, 8>>(static_cast<std::uint64_t>(header_text.size()));
  const std::string head = std::string(length.data(), length.size()) + header_text;
  write_file(dir + "/model.safetensors", head + data);

  const nlohmann::json manifest = {
      {"format", "moa_rt-model"},
      {"version", 1},
      {"fingerprint", model_fingerprint(config, digests)},
      {"dtype", "float32"},
      {"source", {{"kind", "random"}}},
      {"files",
       {{"config.json", {{"bytes", config_text.size()}, {"sha256", sha256_hex(config_text)}}},
        {"model.safetensors",
         {{"bytes", head.size() + data.size()},
          {"sha256", sha256_hex(head + data)},
          {"header_sha256", sha256_hex(head)}}}}},
      {"tensors", tensor_hashes}};
  write_file(dir + "/manifest.json", manifest.dump());
}

}  // namespace moa_rt::testing
