#include "model/checkpoint.h"

#include <algorithm>
#include <set>

#include "core/message.h"
#include "io/convert_dtype.h"
#include "io/sha256.h"
#include "moa_rt/error.h"
#include "model/model_manifest.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kBlockBytes = std::int64_t{4} << 20;
constexpr std::size_t kMaxListed = 20;  // of missing, extra or misshaped tensors in one message

template <typename Sizes>
std::string shape_text(const Sizes& shape) {
  std::string text = "[";
  for (const auto size : shape) {
    if (text.size() > 1) text += ',';
    text += std::to_string(size);
  }
  return text + "]";
}

template <typename Left, typename Right>
bool same_shape(const Left& left, const Right& right) {
  return std::ranges::equal(left, right, [](auto a, auto b) { return std::cmp_equal(a, b); });
}

// Complaints about single tensors, told in one message.
class Complaints {
 public:
  void add(const std::string& text) {
    if (count_++ >= kMaxListed) return;
    if (!text_.empty()) text_ += "; ";
    text_ += text;
  }
  void throw_if_any(const std::string& path) const {
    if (count_ == 0) return;
    std::string note = text_;
    if (count_ > kMaxListed) {
      note += "; and " + std::to_string(count_ - kMaxListed) + " more";
    }
    throw MismatchError(
        describe({.file = path,
                  .item = std::to_string(count_) + " tensors do not fit config.json",
                  .note = note}));
  }

 private:
  std::size_t count_ = 0;
  std::string text_;
};

// B1, B2, B5. The file is one of ours: it holds exactly the manifest's tensors.
void check_tensors(const SafetensorsFile& file, const std::vector<WeightSpec>& specs) {
  Complaints complaints;
  std::set<std::string> wanted;
  for (const WeightSpec& spec : specs) {
    wanted.insert(spec.name);
    const TensorInfo* found = file.find(spec.name);
    if (found == nullptr) {
      complaints.add(quoted_item("tensor", spec.name) + " is missing, want " +
                     shape_text(spec.shape));
    } else if (!same_shape(found->shape, spec.shape)) {
      complaints.add(quoted_item("tensor", spec.name) + " shape: got " + shape_text(found->shape) +
                     ", want " + shape_text(spec.shape));
    }
  }
  for (const TensorInfo& tensor : file.tensors()) {
    if (!wanted.contains(tensor.name)) {
      complaints.add(quoted_item("tensor", tensor.name) + " is not part of this model");
    }
  }
  complaints.throw_if_any(file.path());
  for (const TensorInfo& tensor : file.tensors()) {
    if (tensor.known_dtype.has_value()) continue;
    throw UnsupportedError(describe({.file = file.path(),
                                     .item = quoted_item("tensor", tensor.name),
                                     .field = "dtype",
                                     .got = tensor.dtype,
                                     .want = "F32, BF16 or F16"}));
  }
}

// Of a directory whose files have the listed sizes.
std::string complete_weights_path(const std::string& model_dir, const ModelManifest& manifest) {
  manifest.check_sizes(model_dir);
  return join_path(model_dir, ModelManifest::kWeightsFile);
}

// I12. Cheap, so it is done at every load.
void check_header_hash(const SafetensorsFile& file, const ManifestFile& listed) {
  const std::string hash = sha256_hex(file.file(), 0, file.data_offset());
  if (hash == listed.header_sha256) return;
  throw FormatError(describe({.file = file.path(),
                              .item = "header",
                              .field = "sha256",
                              .got = hash,
                              .want = listed.header_sha256 + " as in manifest.json"}));
}

// Moves tensors from the file to the backend.
class Loader {
 public:
  Loader(const SafetensorsFile& file, Backend& backend, DType dtype)
      : file_(file), backend_(backend), dtype_(dtype) {}

  Matrix matrix(const std::string& name) const {
    const TensorInfo& info = find(name);
    const auto rows = static_cast<std::int64_t>(info.shape.at(0));
    const auto cols = static_cast<std::int64_t>(info.shape.at(1));
    const RowReader reader = [&](std::int64_t begin, std::int64_t count, std::span<std::byte> out) {
      if (static_cast<std::int64_t>(out.size()) != count * cols * size_of(dtype_)) {
        throw InternalError("load_matrix: a buffer of another size than its rows");
      }
      read_elements(info, begin * cols, dtype_, out);
    };
    return backend_.load_matrix(rows, cols, dtype_, reader);
  }

  // Norms and biases stay float32.
  Tensor vector(const std::string& name) const {
    const TensorInfo& info = find(name);
    const auto size = static_cast<std::int64_t>(info.shape.at(0));
    std::vector<float> host(static_cast<std::size_t>(size));
    read_elements(info, 0, DType::kF32, std::as_writable_bytes(std::span(host)));
    Tensor tensor = Tensor::allocate(backend_.allocator(), DType::kF32, {size});
    backend_.copy_to_device(tensor, host.data());
    return tensor;
  }

 private:
  const TensorInfo& find(const std::string& name) const {
    const TensorInfo* info = file_.find(name);
    if (info == nullptr) throw InternalError("weight " + name + " was not checked");
    return *info;
  }

  // Elements from `begin` on, as `dtype`. Keeps no state, so that a backend may read from many
  // threads.
  void read_elements(const TensorInfo& info, std::int64_t begin, DType dtype,
                     std::span<std::byte> out) const {
    const DType stored = *info.known_dtype;
    if (stored == dtype) return file_.read(info, begin * size_of(stored), out);
    const std::int64_t count = static_cast<std::int64_t>(out.size()) / size_of(dtype);
    const std::int64_t block = std::min(count, kBlockBytes / size_of(stored));
    std::vector<std::byte> raw(static_cast<std::size_t>(block * size_of(stored)));
    for (std::int64_t done = 0; done < count; done += block) {
      const std::int64_t now = std::min(block, count - done);
      const auto source = std::span(raw).first(static_cast<std::size_t>(now * size_of(stored)));
      file_.read(info, (begin + done) * size_of(stored), source);
      const auto target = out.subspan(static_cast<std::size_t>(done * size_of(dtype)),
                                      static_cast<std::size_t>(now * size_of(dtype)));
      convert_elements(source, stored, target, dtype);
    }
  }

  const SafetensorsFile& file_;
  Backend& backend_;
  DType dtype_;
};

LayerWeights load_layer(const Loader& loader, const ModelConfig& config, std::int64_t index) {
  const auto name = [&](const char* suffix) { return weight_names::layer(index, suffix); };
  LayerWeights layer;
  layer.input_norm = loader.vector(name(weight_names::kInputNorm));
  layer.qkv = loader.matrix(name(weight_names::kQkv));
  if (config.attention_bias) layer.qkv_bias = loader.vector(name(weight_names::kQkvBias));
  if (config.qk_norm) {
    layer.query_norm = loader.vector(name(weight_names::kQueryNorm));
    layer.key_norm = loader.vector(name(weight_names::kKeyNorm));
  }
  layer.output = loader.matrix(name(weight_names::kOutput));
  layer.post_norm = loader.vector(name(weight_names::kPostNorm));
  layer.gate_up = loader.matrix(name(weight_names::kGateUp));
  layer.down = loader.matrix(name(weight_names::kDown));
  return layer;
}

}  // namespace

Checkpoint::Checkpoint(const std::string& model_dir, const ModelConfig& config)
    : Checkpoint(model_dir, config, ModelManifest::load(model_dir)) {}

Checkpoint::Checkpoint(const std::string& model_dir, const ModelConfig& config,
                       const ModelManifest& manifest)
    : config_(config), file_(complete_weights_path(model_dir, manifest)) {
  check_header_hash(file_, manifest.files.at(ModelManifest::kWeightsFile));
  check_tensors(file_, weight_manifest(config));
  stored_dtype_ = *file_.find(weight_names::kEmbedding)->known_dtype;
}

ModelWeights Checkpoint::load(Backend& backend, DType dtype) const {
  const Loader loader(file_, backend, dtype);
  ModelWeights weights;
  weights.embedding = loader.matrix(weight_names::kEmbedding);
  weights.layers.reserve(static_cast<std::size_t>(config_.num_hidden_layers));
  for (std::int64_t index = 0; index < config_.num_hidden_layers; ++index) {
    weights.layers.push_back(load_layer(loader, config_, index));
  }
  weights.final_norm = loader.vector(weight_names::kFinalNorm);
  if (!config_.tie_word_embeddings) weights.lm_head = loader.matrix(weight_names::kLmHead);
  file_.file().check_unchanged();
  return weights;
}

std::int64_t Checkpoint::predict_bytes(const ModelConfig& config, const Backend& backend,
                                       DType dtype) {
  std::int64_t bytes = 0;
  for (const WeightSpec& spec : weight_manifest(config)) {
    bytes += spec.shape.size() == 2 ? backend.matrix_bytes(spec.shape[0], spec.shape[1], dtype)
                                    : spec.shape[0] * size_of(DType::kF32);
  }
  return bytes;
}

}  // namespace moa_rt
