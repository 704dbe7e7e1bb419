// What opening an engine decides before any weight is read.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "moa_rt/engine.h"
#include "moa_rt/tokenizer.h"
#include "model/checkpoint.h"
#include "ops/backend.h"

namespace moa_rt {

// Logit rows computed at once: a batch's, and enough for scoring to reuse the weights it streams.
inline constexpr std::int64_t kMinLogitRows = 32;

struct LoadPlan {
  ModelConfig config;
  EngineOptions options;  // resolved
  DType dtype = DType::kF32;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Checkpoint> checkpoint;
  std::optional<Tokenizer> tokenizer;  // none where the directory has no tokenizer.json
  MemoryPrediction memory;

  std::int64_t step_rows() const {
    return options.prefill_chunk > options.max_batch ? options.prefill_chunk : options.max_batch;
  }
  std::int64_t logit_rows() const {
    return options.max_batch > kMinLogitRows ? options.max_batch : kMinLogitRows;
  }
  BackendLimits backend_limits() const;
};

// Config, then plan against config, then weight manifest, then bytes: the order of the checks.
// Reads no weight. Throws the error of the first check that fails.
LoadPlan prepare_load(const std::string& model_dir, const EngineOptions& options);

// Throws ResourceError, with bytes per layer, the total, what is free and the largest batch that
// would fit, unless weights, scratch and one sequence of max_seq_len fit into `free_bytes` (E13).
void check_memory(const LoadPlan& plan, std::int64_t free_bytes);

}  // namespace moa_rt
