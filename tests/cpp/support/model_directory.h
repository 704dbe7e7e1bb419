// A model directory held in memory, tensor by tensor, so that a test can spoil any part before it
// is written. The manifest is made to fit whatever is there.
#pragma once

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/convert_dtype.h"
#include "io/sha256.h"
#include "moa_rt/model_config.h"
#include "model/model_manifest.h"
#include "model/weight_manifest.h"
#include "support/safetensors_writer.h"

namespace moa_rt::testing {

struct StoredTensor {
  std::string name;
  std::string dtype;  // as safetensors spells it
  std::vector<std::int64_t> shape;
  std::string bytes;
};

inline const char* safetensors_dtype(DType dtype) {
  if (dtype == DType::kBF16) return "BF16";
  return dtype == DType::kF16 ? "F16" : "F32";
}

// Element `index` of tensor number `tensor`: exact in every type, different from its neighbours'.
inline float pattern(std::size_t tensor, std::size_t index) {
  return static_cast<float>(static_cast<int>((index * 7 + tensor * 13) % 251) - 125) / 64.0f;
}

inline std::string encode(const std::vector<float>& values, DType dtype) {
  std::string bytes(values.size() * static_cast<std::size_t>(size_of(dtype)), '\0');
  convert_elements(std::as_bytes(std::span(values)), DType::kF32,
                   std::as_writable_bytes(std::span(bytes)), dtype);
  return bytes;
}

struct ModelDirectory {
  std::string config_text;
  std::vector<StoredTensor> tensors;

  // Every tensor of the weight manifest, filled with pattern(its place in the manifest, index).
  ModelDirectory(const nlohmann::json& config_json, DType dtype) : config_text(config_json.dump()) {
    const ModelConfig config = ModelConfig::parse(config_text, "config.json");
    for (const WeightSpec& spec : weight_manifest(config)) {
      std::size_t count = 1;
      for (const std::int64_t size : spec.shape) count *= static_cast<std::size_t>(size);
      std::vector<float> values(count);
      for (std::size_t i = 0; i < count; ++i) values[i] = pattern(tensors.size(), i);
      tensors.push_back({spec.name, safetensors_dtype(dtype), spec.shape, encode(values, dtype)});
    }
  }

  StoredTensor& at(const std::string& name) {
    return *std::ranges::find(tensors, name, &StoredTensor::name);
  }
  void erase(const std::string& name) {
    std::erase_if(tensors, [&](const StoredTensor& tensor) { return tensor.name == name; });
  }

  std::string header() const {
    nlohmann::ordered_json header;
    std::size_t offset = 0;
    for (const StoredTensor& tensor : tensors) {
      header[tensor.name] = {{"dtype", tensor.dtype},
                             {"shape", tensor.shape},
                             {"data_offsets", {offset, offset + tensor.bytes.size()}}};
      offset += tensor.bytes.size();
    }
    const std::string text = header.dump();
    return little_endian(text.size()) + text;
  }

  nlohmann::json manifest() const {
    std::string data;
    nlohmann::json hashes = nlohmann::json::object();
    std::vector<TensorDigest> digests;
    for (const StoredTensor& tensor : tensors) {
      data += tensor.bytes;
      hashes[tensor.name] = sha256_hex(tensor.bytes);
      const DType dtype = tensor.dtype == "BF16"  ? DType::kBF16
                          : tensor.dtype == "F16" ? DType::kF16
                                                  : DType::kF32;
      digests.push_back({tensor.name, dtype, tensor.shape, hashes[tensor.name]});
    }
    std::string fingerprint(64, '0');
    try {
      fingerprint = model_fingerprint(ModelConfig::parse(config_text, "config.json"), digests);
    } catch (const std::exception&) {  // a spoilt directory has none
    }
    const std::string file = header() + data;
    return {{"format", "moa_rt-model"},
            {"version", 1},
            {"fingerprint", fingerprint},
            {"dtype", "float32"},
            {"source", {{"kind", "huggingface"}, {"name", "test"}}},
            {"files",
             {{"config.json", {{"bytes", config_text.size()}, {"sha256", sha256_hex(config_text)}}},
              {"model.safetensors",
               {{"bytes", file.size()},
                {"sha256", sha256_hex(file)},
                {"header_sha256", sha256_hex(header())}}}}},
            {"tensors", hashes}};
  }

  void write(const std::string& dir) const {
    std::string data;
    for (const StoredTensor& tensor : tensors) data += tensor.bytes;
    write_bytes(dir + "/config.json", config_text);
    write_bytes(dir + "/model.safetensors", header() + data);
    write_bytes(dir + "/manifest.json", manifest().dump());
  }
};

}  // namespace moa_rt::testing
