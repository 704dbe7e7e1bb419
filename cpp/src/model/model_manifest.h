// manifest.json: what a converted model directory consists of, written last by the converter. A
// directory without one is unfinished and is refused (I11).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moa_rt/model_config.h"
#include "moa_rt/types.h"

namespace moa_rt {

struct ManifestFile {
  std::int64_t bytes = 0;
  std::string sha256;
  std::string header_sha256;  // model.safetensors: of its length field and header; else empty
};

struct ModelManifest {
  static constexpr const char* kFileName = "manifest.json";
  static constexpr const char* kConfigFile = "config.json";
  static constexpr const char* kWeightsFile = "model.safetensors";

  std::string fingerprint;  // 64 hex digits, see model_fingerprint()
  DType dtype = DType::kF32;
  std::map<std::string, std::string> source;   // kind and whatever else the converter knew
  std::map<std::string, ManifestFile> files;   // by plain file name
  std::map<std::string, std::string> tensors;  // name -> SHA-256 of its bytes in the weights file

  // Throws IoError (with the hint to convert) if there is none, FormatError or UnsupportedError.
  static ModelManifest load(const std::string& model_dir);
  static ModelManifest parse(const std::string& text, const std::string& path);

  // Throws FormatError if a listed file has another size than listed, IoError if it cannot be
  // opened.
  void check_sizes(const std::string& model_dir) const;
};

// A tensor of the runtime's checkpoint and the SHA-256 of its bytes there.
struct TensorDigest {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::string sha256;
};

// SHA-256 in hex of a canonical text over everything that decides what the model computes: the
// config's mathematical fields in fixed order, then each tensor of the weight manifest, in its
// order, as "name dtype shape sha256". `digests` may be in any order. Throws MismatchError if they
// are not the manifest's tensors.
std::string model_fingerprint(const ModelConfig& config, std::span<const TensorDigest> digests);

}  // namespace moa_rt
