#include "runtime/loading.h"

#include <algorithm>
#include <utility>

#include "core/message.h"
#include "core/parallel.h"
#include "io/file.h"
#include "moa_rt/error.h"
#include "model/activations.h"
#include "runtime/sampler.h"

namespace moa_rt {
namespace {

// Code, stacks and heap of a process that runs nothing but the engine: measured as what the peak
// resident set of moa-rt has beyond everything counted here, over four configurations.
constexpr std::int64_t kProcessBytes = std::int64_t{3} << 20;

void check_range(const char* name, std::int64_t value, std::int64_t min, std::int64_t max) {
  if (value >= min && value <= max) return;
  throw ArgumentError(describe({.field = name,
                                .got = std::to_string(value),
                                .want = std::to_string(min) + ".." + std::to_string(max)}));
}

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  const Device device = parse_device(options.device);
  if (device.type == DeviceType::kCuda) return make_cuda_backend(device);
  return make_cpu_backend(static_cast<int>(options.num_threads), options.cpu_isa);
}

EngineOptions resolve_numbers(EngineOptions options, const ModelConfig& config) {
  constexpr std::int64_t kMaxBatch = 4096;
  constexpr std::int64_t kMaxChunk = 16384;
  constexpr std::int64_t kMaxThreads = 1024;
  if (options.num_threads == 0) options.num_threads = available_cores();
  if (options.max_seq_len == 0) options.max_seq_len = config.max_position_embeddings;
  check_range("max_batch", options.max_batch, 1, kMaxBatch);
  check_range("max_queue", options.max_queue, 0, INT32_MAX);
  check_range("max_seq_len", options.max_seq_len, 1,
              std::min(config.max_position_embeddings, kMaxTokens));
  check_range("prefill_chunk", options.prefill_chunk, 1, kMaxChunk);
  check_range("num_threads", options.num_threads, 1, kMaxThreads);
  check_range("kv_cache_bytes", options.kv_cache_bytes, 0, INT64_MAX);
  options.prefill_chunk = std::min(options.prefill_chunk, options.max_seq_len);
  return options;
}

// Weights run as stored where the backend can; what it cannot, in float32, which loses nothing.
DType resolve_dtype(const std::string& name, DType stored, const Backend& backend) {
  const DType wanted = name != "auto"             ? parse_dtype(name)
                       : backend.supports(stored) ? stored
                                                  : DType::kF32;
  if (!backend.supports(wanted)) {
    throw UnsupportedError(
        describe({.field = "dtype",
                  .got = dtype_name(wanted),
                  .want = "a type that " + backend.description() + " computes in"}));
  }
  return wanted;
}

MemoryPrediction predict(const LoadPlan& plan, std::int64_t runtime_bytes) {
  const EngineOptions& options = plan.options;
  MemoryPrediction memory;
  memory.weights = Checkpoint::predict_bytes(plan.config, *plan.backend, plan.dtype);
  memory.scratch =
      Activations::predict_bytes(plan.config, plan.step_rows(), plan.logit_rows()) +
      options.max_seq_len * plan.config.head_dim * size_of(DType::kF32) +  // cos and sin
      Sampler::predict_bytes(plan.config.vocab_size) +
      plan.backend->workspace_bytes(plan.backend_limits());
  memory.runtime = runtime_bytes;
  const CacheLayout layout(options.plan->spans(options.max_seq_len), plan.config.head_dim,
                           plan.dtype);
  memory.kv_per_sequence = layout.total_bytes();
  const std::int64_t widest = options.plan->widest_length(options.max_seq_len);
  memory.largest_kv = options.plan->cache_bytes(widest, plan.config.head_dim, plan.dtype);
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    memory.kv_per_layer.push_back(layout.layer_bytes(layer));
  }
  memory.dense_kv_per_sequence =
      AttentionPlan::dense(plan.config)
          .cache_bytes(options.max_seq_len, plan.config.head_dim, plan.dtype);
  return memory;
}

}  // namespace

BackendLimits LoadPlan::backend_limits() const {
  return {.attention = {config.num_attention_heads, config.num_key_value_heads, config.head_dim},
          .max_rows = step_rows(),
          .max_sequences = options.max_batch,
          .max_seq_len = options.max_seq_len,
          .max_matrix_cols =
              std::max({config.hidden_size, config.intermediate_size, config.query_size()}),
          .dtype = dtype,
          .num_layers = config.num_hidden_layers,
          .vocab = config.vocab_size};
}

LoadPlan prepare_load(const std::string& model_dir, const EngineOptions& options) {
  LoadPlan plan;
  plan.config = ModelConfig::load(model_dir);
  plan.options = resolve_numbers(options, plan.config);
  if (!plan.options.plan) plan.options.plan = AttentionPlan::dense(plan.config);
  plan.options.plan->check_model(plan.config, options.force_plan);
  plan.options.plan->validate();
  plan.backend = make_backend(plan.options);
  if (!plan.backend->supports_head_dim(plan.config.head_dim)) {
    throw UnsupportedError(describe({.file = join_path(model_dir, "config.json"),
                                     .field = "head_dim",
                                     .got = std::to_string(plan.config.head_dim),
                                     .want = "64, 80, 96 or 128"}));
  }
  plan.checkpoint = std::make_unique<Checkpoint>(model_dir, plan.config);
  plan.dtype = resolve_dtype(plan.options.dtype, plan.checkpoint->stored_dtype(), *plan.backend);
  plan.options.dtype = dtype_name(plan.dtype);
  if (file_exists(join_path(model_dir, "tokenizer.json"))) {
    plan.tokenizer = Tokenizer::load(model_dir);
  }
  const std::int64_t tokenizer_bytes = plan.tokenizer ? plan.tokenizer->memory_bytes() : 0;
  const bool on_host = plan.backend->device().type == DeviceType::kCpu;
  plan.memory =
      predict(plan, on_host ? tokenizer_bytes + kProcessBytes : plan.backend->runtime_bytes());
  return plan;
}

void check_memory(const LoadPlan& plan, std::int64_t free_bytes) {
  const MemoryPrediction& need = plan.memory;
  const std::int64_t kv_bytes = std::max(need.kv_per_sequence, plan.options.kv_cache_bytes);
  if (kv_bytes <= free_bytes - need.total(0)) return;
  // A bound of the caller's may be as large as 2^63 - 1.
  const std::uint64_t total =
      static_cast<std::uint64_t>(need.total(0)) + static_cast<std::uint64_t>(kv_bytes);
  const std::int64_t left = std::max<std::int64_t>(free_bytes - need.total(0), 0);
  std::string layers;
  for (const std::int64_t bytes : need.kv_per_layer) layers += " " + std::to_string(bytes);
  throw ResourceError(
      "memory of " + plan.backend->description() + ": need " + std::to_string(total) +
      " bytes (weights " + std::to_string(need.weights) + ", scratch " +
      std::to_string(need.scratch) + ", runtime " + std::to_string(need.runtime) + ", KV caches " +
      std::to_string(kv_bytes) + "), free " + std::to_string(free_bytes) + ", missing " +
      std::to_string(total - static_cast<std::uint64_t>(free_bytes)) + "; one sequence of " +
      std::to_string(plan.options.max_seq_len) + " tokens takes " +
      std::to_string(need.kv_per_sequence) + ", largest batch that fits: " +
      std::to_string(left / std::max<std::int64_t>(need.kv_per_sequence, 1)) +
      "; KV bytes per layer:" + layers);
}

MemoryPrediction predict_memory(const std::string& model_dir, const EngineOptions& options) {
  return prepare_load(model_dir, options).memory;
}

}  // namespace moa_rt
