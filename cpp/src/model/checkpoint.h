// Weights: from a converted model directory into the backend's memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "moa_rt/model_config.h"
#include "model/model_manifest.h"
#include "model/weight_manifest.h"
#include "ops/backend.h"

namespace moa_rt {

// One decoder layer. Norms and biases are float32 whatever the engine's type.
struct LayerWeights {
  Tensor input_norm;  // (hidden)
  Matrix qkv;         // (qkv_size, hidden)
  Tensor qkv_bias;    // (qkv_size), empty if the family has none
  Tensor query_norm;  // (head_dim), empty if the family has none
  Tensor key_norm;    // (head_dim), empty if the family has none
  Matrix output;      // (hidden, query_size)
  Tensor post_norm;   // (hidden)
  Matrix gate_up;     // (2 * intermediate, hidden): gate rows, then up rows
  Matrix down;        // (hidden, intermediate)
};

struct ModelWeights {
  Matrix embedding;  // (vocab, hidden)
  std::vector<LayerWeights> layers;
  Tensor final_norm;  // (hidden)
  Matrix lm_head;     // (vocab, hidden); empty when tied
  const Matrix& head() const { return lm_head.empty() ? embedding : lm_head; }
};

// An opened and checked checkpoint: the header matches the weight manifest, no weight read yet.
class Checkpoint {
 public:
  // Reads manifest.json and the header of model.safetensors. Throws MismatchError listing
  // everything that is missing, extra or misshaped (B1, B2, B5).
  Checkpoint(const std::string& model_dir, const ModelConfig& config);

  // The type the matrices are stored in.
  DType stored_dtype() const { return stored_dtype_; }

  // Streams every weight into the backend as `dtype`; peak host memory is one block of rows.
  ModelWeights load(Backend& backend, DType dtype) const;

  // Bytes the weights take in the backend, from shapes alone.
  static std::int64_t predict_bytes(const ModelConfig& config, const Backend& backend, DType dtype);

  // Compares every file with its SHA-256 in the manifest (I12). Throws FormatError naming file and,
  // where it can be told, tensor.
  static void verify(const std::string& model_dir);

 private:
  Checkpoint(const std::string& model_dir, const ModelConfig& config,
             const ModelManifest& manifest);

  ModelConfig config_;
  SafetensorsFile file_;
  DType stored_dtype_ = DType::kF32;
};

}  // namespace moa_rt
