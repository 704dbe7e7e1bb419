// Checkpoint::verify: the one place that reads every byte of a model directory only to check it.
#include <vector>

#include "core/message.h"
#include "io/sha256.h"
#include "moa_rt/error.h"
#include "model/checkpoint.h"
#include "model/model_manifest.h"

namespace moa_rt {
namespace {

[[noreturn]] void fail(const std::string& path, std::string_view item, std::string_view field,
                       std::string_view got, std::string_view want) {
  throw FormatError(
      describe({.file = path, .item = item, .field = field, .got = got, .want = want}));
}

std::string listed_hash(const SafetensorsFile& file, const TensorInfo& info,
                        const ModelManifest& manifest) {
  const auto listed = manifest.tensors.find(info.name);
  if (listed != manifest.tensors.end()) return listed->second;
  fail(file.path(), quoted_item("tensor", info.name), "sha256", "nothing",
       "an entry in manifest.json");
}

// Finds the damage: the first tensor whose bytes are not the listed ones.
[[noreturn]] void blame_tensor(const SafetensorsFile& file, const ModelManifest& manifest,
                               const std::string& file_hash) {
  for (const TensorInfo& info : file.tensors()) {
    const std::string want = listed_hash(file, info, manifest);
    const std::string got = sha256_hex(file.file(), info.file_offset, info.bytes);
    if (got != want) fail(file.path(), quoted_item("tensor", info.name), "sha256", got, want);
  }
  const ManifestFile& listed = manifest.files.at(ModelManifest::kWeightsFile);
  fail(file.path(), "", "sha256", file_hash, listed.sha256);
}

void verify_weights(const SafetensorsFile& file, const ModelManifest& manifest) {
  const std::string hash = sha256_hex(file.file(), 0, file.file().size());
  if (hash != manifest.files.at(ModelManifest::kWeightsFile).sha256) {
    blame_tensor(file, manifest, hash);
  }
}

void verify_file(const std::string& path, const ManifestFile& listed) {
  const File file(path);
  const std::string hash = sha256_hex(file, 0, file.size());
  if (hash != listed.sha256) fail(path, "", "sha256", hash, listed.sha256);
}

// The manifest agrees with itself: its fingerprint is that of its config and tensors.
void verify_fingerprint(const SafetensorsFile& file, const ModelManifest& manifest,
                        const ModelConfig& config, const std::string& manifest_path) {
  std::vector<TensorDigest> digests;
  for (const TensorInfo& info : file.tensors()) {
    TensorDigest& digest = digests.emplace_back();
    digest.name = info.name;
    digest.dtype = *info.known_dtype;
    digest.shape.assign(info.shape.begin(), info.shape.end());
    digest.sha256 = listed_hash(file, info, manifest);
  }
  const std::string fingerprint = model_fingerprint(config, digests);
  if (fingerprint != manifest.fingerprint) {
    fail(manifest_path, "", "fingerprint", manifest.fingerprint, fingerprint);
  }
}

}  // namespace

void Checkpoint::verify(const std::string& model_dir) {
  const ModelManifest manifest = ModelManifest::load(model_dir);
  manifest.check_sizes(model_dir);
  // Small files first: a changed config.json is told as such, not by its consequences.
  for (const auto& [name, listed] : manifest.files) {
    if (name != ModelManifest::kWeightsFile) verify_file(join_path(model_dir, name), listed);
  }
  const ModelConfig config = ModelConfig::load(model_dir);
  const Checkpoint checkpoint(model_dir, config, manifest);
  verify_weights(checkpoint.file_, manifest);
  verify_fingerprint(checkpoint.file_, manifest, config,
                     join_path(model_dir, ModelManifest::kFileName));
}

}  // namespace moa_rt
