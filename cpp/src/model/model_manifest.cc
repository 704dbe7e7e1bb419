#include "model/model_manifest.h"

#include <array>
#include <charconv>
#include <limits>

#include "core/json.h"
#include "core/message.h"
#include "io/file.h"
#include "io/sha256.h"
#include "moa_rt/error.h"
#include "model/weight_manifest.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kVersion = 1;
constexpr const char* kFormat = "moa_rt-model";
constexpr std::int64_t kMaxManifestBytes = std::int64_t{16} << 20;

std::string read_hash(const JsonObject& object, const char* field, const std::string& item) {
  const std::string hash = object.string(field);
  if (!is_sha256_hex(hash)) {
    throw FormatError(describe({.file = object.path(),
                                .item = item,
                                .field = field,
                                .got = "\"" + escape_name(hash) + "\"",
                                .want = "64 lower-case hex digits"}));
  }
  return hash;
}

// The name is joined to the directory and opened: nothing outside may be reached by it (B10).
void check_plain_name(const std::string& path, const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.size() <= 255 &&
                     name.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos;
  if (plain) return;
  throw FormatError(describe({.file = path,
                              .item = "files",
                              .got = "\"" + escape_name(name) + "\"",
                              .want = "a plain file name"}));
}

std::map<std::string, ManifestFile> read_files(const JsonObject& manifest) {
  std::map<std::string, ManifestFile> files;
  for (const auto& [name, value] : manifest.object("files").items()) {
    check_plain_name(manifest.path(), name);
    const std::string item = quoted_item("file", name);
    const JsonObject entry(value, manifest.path(), item);
    entry.check_keys({"bytes", "sha256", "header_sha256"});
    ManifestFile& file = files[name];
    file.bytes = entry.integer("bytes", 0, std::numeric_limits<std::int64_t>::max());
    file.sha256 = read_hash(entry, "sha256", item);
    if (name == ModelManifest::kWeightsFile || entry.has("header_sha256")) {
      file.header_sha256 = read_hash(entry, "header_sha256", item);
    }
  }
  for (const char* needed : {ModelManifest::kConfigFile, ModelManifest::kWeightsFile}) {
    if (files.contains(needed)) continue;
    throw FormatError(describe({.file = manifest.path(),
                                .item = "files",
                                .note = std::string(needed) + " is not listed"}));
  }
  return files;
}

std::map<std::string, std::string> read_strings(const JsonObject& manifest, const char* field) {
  std::map<std::string, std::string> strings;
  const JsonObject object(manifest.object(field), manifest.path(), field);
  for (const auto& [name, unused] : object.value().items()) {
    strings[name] = object.string(name.c_str());
  }
  return strings;
}

DType read_dtype(const JsonObject& manifest) {
  const std::string name = manifest.string("dtype");
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw FormatError(describe({.file = manifest.path(),
                              .field = "dtype",
                              .got = "\"" + escape_name(name) + "\"",
                              .want = "float32, bfloat16 or float16"}));
}

void check_version(const JsonObject& manifest) {
  const std::string format = manifest.string("format");
  if (format != kFormat) {
    throw FormatError(describe({.file = manifest.path(),
                                .field = "format",
                                .got = "\"" + escape_name(format) + "\"",
                                .want = "\"" + std::string(kFormat) + "\""}));
  }
  const std::int64_t version =
      manifest.integer("version", 1, std::numeric_limits<std::int64_t>::max());
  if (version != kVersion) {
    throw UnsupportedError(describe({.file = manifest.path(),
                                     .note = "manifest version " + std::to_string(version) +
                                             ", this build reads " + std::to_string(kVersion)}));
  }
}

// Shortest decimal that reads back as the same double.
std::string number_text(double value) {
  std::array<char, 32> buffer{};
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return {buffer.data(), result.ptr};
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    if (!text.empty()) text += 'x';
    text += std::to_string(size);
  }
  return text;
}

const char* rope_name(RopeType type) {
  switch (type) {
    case RopeType::kLinear:
      return "linear";
    case RopeType::kLlama3:
      return "llama3";
    case RopeType::kDefault:
      break;
  }
  return "default";
}

// Token ids, the length limit and the stored type are left out: they do not change what a weight
// means.
std::string canonical_config(const ModelConfig& config) {
  std::string text = "moa_rt-fingerprint 1\n";
  const auto line = [&](const char* key, const std::string& value) {
    text += std::string(key) + " " + value + "\n";
  };
  line("hidden_size", std::to_string(config.hidden_size));
  line("intermediate_size", std::to_string(config.intermediate_size));
  line("num_hidden_layers", std::to_string(config.num_hidden_layers));
  line("num_attention_heads", std::to_string(config.num_attention_heads));
  line("num_key_value_heads", std::to_string(config.num_key_value_heads));
  line("head_dim", std::to_string(config.head_dim));
  line("vocab_size", std::to_string(config.vocab_size));
  line("rms_norm_eps", number_text(config.rms_norm_eps));
  line("tie_word_embeddings", config.tie_word_embeddings ? "1" : "0");
  line("attention_bias", config.attention_bias ? "1" : "0");
  line("qk_norm", config.qk_norm ? "1" : "0");
  line("rope_type", rope_name(config.rope.type));
  line("rope_theta", number_text(config.rope.theta));
  line("rope_factor", number_text(config.rope.factor));
  line("rope_low_freq_factor", number_text(config.rope.low_freq_factor));
  line("rope_high_freq_factor", number_text(config.rope.high_freq_factor));
  line("rope_original_max_position_embeddings",
       std::to_string(config.rope.original_max_position_embeddings));
  return text;
}

}  // namespace

ModelManifest ModelManifest::parse(const std::string& text, const std::string& path) {
  const JsonLimits limits{.max_bytes = static_cast<std::size_t>(kMaxManifestBytes), .max_depth = 6};
  const Json document = parse_json(text, path, limits);
  const JsonObject object(document, path);
  check_version(object);
  object.check_keys({"format", "version", "fingerprint", "dtype", "source", "files", "tensors"});
  ModelManifest out;
  out.fingerprint = read_hash(object, "fingerprint", "");
  out.dtype = read_dtype(object);
  out.source = read_strings(object, "source");
  out.files = read_files(object);
  const JsonObject tensors(object.object("tensors"), path, "tensors");
  for (const auto& [name, unused] : tensors.value().items()) {
    out.tensors[name] = read_hash(tensors, name.c_str(), "tensors");
  }
  return out;
}

ModelManifest ModelManifest::load(const std::string& model_dir) {
  const std::string path = join_path(model_dir, kFileName);
  try {
    return parse(read_text(path, kMaxManifestBytes), path);
  } catch (const IoError& error) {
    throw IoError(
        std::string(error.what()) + "; a model directory is made by: moa-tools convert SOURCE OUT",
        error.error_number(), path);
  }
}

void ModelManifest::check_sizes(const std::string& model_dir) const {
  for (const auto& [name, listed] : files) {
    const File file(join_path(model_dir, name));
    if (file.size() == listed.bytes) continue;
    throw FormatError(describe({.file = file.path(),
                                .field = "size",
                                .got = std::to_string(file.size()) + " bytes",
                                .want = std::to_string(listed.bytes) + " as in " + kFileName}));
  }
}

std::string model_fingerprint(const ModelConfig& config, std::span<const TensorDigest> digests) {
  std::map<std::string, const TensorDigest*> by_name;
  for (const TensorDigest& digest : digests) by_name[digest.name] = &digest;
  const std::vector<WeightSpec> specs = weight_manifest(config);
  if (by_name.size() != specs.size() || digests.size() != specs.size()) {
    throw MismatchError(describe({.item = "model_fingerprint",
                                  .got = std::to_string(digests.size()) + " tensors",
                                  .want = std::to_string(specs.size())}));
  }
  Sha256 hash;
  hash.update(canonical_config(config));
  for (const WeightSpec& spec : specs) {
    const auto found = by_name.find(spec.name);
    const TensorDigest* digest = found == by_name.end() ? nullptr : found->second;
    if (digest == nullptr || digest->shape != spec.shape || !is_sha256_hex(digest->sha256)) {
      throw MismatchError(describe({.item = "model_fingerprint",
                                    .field = quoted_item("tensor", spec.name),
                                    .note = "is missing, or its shape or hash is wrong"}));
    }
    hash.update(spec.name + " " + dtype_name(digest->dtype) + " " + shape_text(spec.shape) + " " +
                digest->sha256 + "\n");
  }
  return hash.hex_digest();
}

}  // namespace moa_rt
