// The whole decoder with random weights of Llama-2-7B and Llama-3-8B shapes: time of a decode step
// of the decode loop as the engine runs it, the host a step behind, of prefill, and of small
// products; one JSON object a line. Arguments name the sections wanted: Llama-3-8B, Llama-2-7B,
// products. Roofline: bytes of weights and of kept keys and values over the measured read
// bandwidth. Bound: the same, but products take at least what the matrix units need at the measured
// rate.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cuda/bench/ceiling.h"
#include "cuda/bench/products.h"
#include "model/decoder.h"
#include "model/rope_table.h"

namespace moa_rt::cuda::bench {
namespace {

ModelConfig llama(const char* name, std::int64_t kv_heads, std::int64_t intermediate,
                  std::int64_t vocab) {
  ModelConfig config;
  config.model_type = name;
  config.hidden_size = 4096;
  config.intermediate_size = intermediate;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.num_key_value_heads = kv_heads;
  config.head_dim = 128;
  config.vocab_size = vocab;
  config.max_position_embeddings = 32768;
  return config;
}

class Model {
 public:
  Model(const ModelConfig& config, std::int64_t rows, std::int64_t sequences,
        std::int64_t max_seq_len)
      : config_(config), backend_({DeviceType::kCuda, 0}) {
    backend_.reserve(
        {.attention = {config.num_attention_heads, config.num_key_value_heads, config.head_dim},
         .max_rows = rows,
         .max_sequences = sequences,
         .max_seq_len = max_seq_len,
         .max_matrix_cols = std::max(config.intermediate_size, config.hidden_size),
         .dtype = DType::kBF16,
         .num_layers = config.num_hidden_layers,
         .vocab = config.vocab_size});
    activations_ = Activations::allocate(backend_.allocator(), config, rows, sequences);
    ModelWeights weights;
    weights.embedding = matrix(config.vocab_size, config.hidden_size);
    for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
      LayerWeights layer;
      layer.input_norm = vector(config.hidden_size);
      layer.qkv = matrix(config.qkv_size(), config.hidden_size);
      layer.output = matrix(config.hidden_size, config.query_size());
      layer.post_norm = vector(config.hidden_size);
      layer.gate_up = matrix(2 * config.intermediate_size, config.hidden_size);
      layer.down = matrix(config.hidden_size, config.intermediate_size);
      weights.layers.push_back(std::move(layer));
    }
    weights.final_norm = vector(config.hidden_size);
    weights.lm_head = matrix(config.vocab_size, config.hidden_size);
    decoder_ = std::make_unique<Decoder>(config_, backend_, std::move(weights),
                                         make_rope_table(config, max_seq_len, backend_));
    loop_ = backend_.decode_loop(
        {.logits =
             [this](std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices) {
               std::vector<std::int64_t> index;
               for (const SequenceSlice& slice : slices) index.push_back(slice.row);
               decoder_->forward({tokens, slices}, activations_, {});
               return decoder_->logits(index, activations_);
             },
         .valid_vocab = config.vocab_size});
  }

  void add_sequence(double density, std::int64_t budget, std::int64_t length) {
    const auto heads = static_cast<std::size_t>(config_.num_key_value_heads);
    const std::int64_t span =
        round_up(static_cast<std::int64_t>(static_cast<double>(budget) * density), 64);
    const CacheLayout layout(
        std::vector<std::vector<HeadSpan>>(static_cast<std::size_t>(config_.num_hidden_layers),
                                           std::vector<HeadSpan>(heads, HeadSpan{64, span - 64})),
        config_.head_dim, DType::kBF16);
    caches_.push_back(std::make_unique<KVCache>(backend_.allocator(), layout));
    fill_bf16(caches_.back()->segment(0, 0).keys, layout.total_bytes() / 2, 5, 1.0f, stream());
    caches_.back()->advance(length);
    kv_bytes_ += static_cast<double>(std::min(span, length)) * static_cast<double>(heads) * 512.0 *
                 static_cast<double>(config_.num_hidden_layers);
  }
  void clear() {
    caches_.clear();
    kv_bytes_ = 0.0;
  }

  // A step of all sequences, tokens read back; the first 16 are not counted.
  double seconds_of_step(const SamplingPlan& sampling, int steps) {
    for (std::size_t row = 0; row < caches_.size(); ++row) {
      DecodeSequence sequence;
      sequence.cache = caches_[row].get();
      sequence.token = 17;
      sequence.seed = row;
      sequence.sampling = sampling;
      loop_->join(static_cast<std::int64_t>(row), sequence);
    }
    loop_->launch();
    const auto run = [this](int count) {
      for (int i = 0; i < count; ++i) {
        loop_->launch();
        (void)loop_->collect();
      }
    };
    run(16);
    const auto begin = std::chrono::steady_clock::now();
    run(steps);
    const double seconds = seconds_since(begin) / steps;
    loop_->wait();
    (void)loop_->collect();
    for (std::size_t row = 0; row < caches_.size(); ++row) {
      loop_->leave(static_cast<std::int64_t>(row));
    }
    return seconds;
  }

  double seconds_of_prefill(std::int64_t tokens, std::int64_t chunk) {
    tokens_.assign(static_cast<std::size_t>(chunk), 17);
    double seconds = 0.0;
    for (int run = 0; run < 2; ++run) {  // the first run finds the algorithms
      KVCache& cache = *caches_.front();
      if (cache.length() > 0) cache.rollback(cache.length());
      check(cudaStreamSynchronize(stream()), "prefill");
      const auto begin = std::chrono::steady_clock::now();
      for (std::int64_t done = 0; done < tokens; done += chunk) {
        const SequenceSlice slice{&cache, 0, chunk, done};
        decoder_->forward({tokens_, {&slice, 1}}, activations_, {});
        cache.advance(chunk);
      }
      check(cudaStreamSynchronize(stream()), "prefill");
      seconds = seconds_since(begin);
    }
    return seconds;
  }

  double weight_bytes() const { return static_cast<double>(decoder_->bytes_per_step()); }
  double bytes() const { return weight_bytes() + kv_bytes_; }
  std::size_t batch() const { return caches_.size(); }
  const char* name() const { return config_.model_type.c_str(); }

 private:
  static double seconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  cudaStream_t stream() const { return backend_.stream(); }
  Matrix matrix(std::int64_t rows, std::int64_t cols) {
    Matrix m{.rows = rows,
             .cols = cols,
             .dtype = DType::kBF16,
             .storage = Storage(backend_.allocator(), rows * cols * 2)};
    fill_bf16(m.storage.data(), rows * cols, ++seed_, 0.02f, stream());
    return m;
  }
  Tensor vector(std::int64_t size) {
    Tensor tensor = Tensor::allocate(backend_.allocator(), DType::kF32, {size});
    fill_f32(tensor.data<float>(), size, ++seed_, 1.0f, stream());
    return tensor;
  }

  ModelConfig config_;
  CudaBackend backend_;
  Activations activations_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<std::unique_ptr<KVCache>> caches_;
  std::unique_ptr<DecodeLoop> loop_;
  std::vector<std::int32_t> tokens_;
  double kv_bytes_ = 0.0;
  std::uint32_t seed_ = 0;
};

void report(const char* goal, Model& model, double density, std::int64_t length,
            const Ceilings& ceilings, const SamplingPlan& sampling = {}) {
  const double seconds = model.seconds_of_step(sampling, 48);
  const double batch = static_cast<double>(model.batch());
  const double weights = model.weight_bytes();
  const double floor = model.bytes() / ceilings.read;
  // A weight is two bytes and two operations a row.
  const double bound = (model.bytes() - weights) / ceilings.read +
                       std::max(weights / ceilings.read, weights * batch / ceilings.matmul);
  std::printf(
      "{\"goal\": \"%s\", \"model\": \"%s\", \"density\": %.2f, \"batch\": %d, \"length\": %d, "
      "\"sampling\": \"%s\", \"ms_step\": %.3f, \"tok_s\": %.0f, \"TB_s\": %.3f, "
      "\"share_of_roofline\": %.3f, \"share_of_bound\": %.3f}\n",
      goal, model.name(), density, static_cast<int>(batch), static_cast<int>(length),
      sampling.greedy ? "greedy" : "top_k and top_p", seconds * 1e3, batch / seconds,
      model.bytes() / seconds / 1e12, floor / seconds, bound / seconds);
  std::fflush(stdout);
}

void whole_model(const ModelConfig& config, std::int64_t full_batch, const Ceilings& ceilings) {
  Model model(config, 2048, 4 * full_batch, 8448);
  for (const std::int64_t length : {512, 4096, 8192}) {
    model.clear();
    model.add_sequence(1.0, length + 256, length);
    report("E1", model, 1.0, length, ceilings);
  }
  SamplingPlan sampled;
  sampled.greedy = false;
  sampled.temperature = 0.8;
  sampled.least = -60.0;
  sampled.top_k = 50;
  sampled.top_p = 0.95;
  report("E1", model, 1.0, 8192, ceilings, sampled);
  const double seconds = model.seconds_of_prefill(8192, 2048);
  std::printf(
      "{\"goal\": \"prefill\", \"model\": \"%s\", \"tokens\": 8192, \"chunk\": 2048, "
      "\"seconds\": %.4f, \"tok_s\": %.0f}\n",
      model.name(), seconds, 8192.0 / seconds);
  for (const int parts : {1, 2, 4}) {  // dense, 50 %, 25 % with the same bytes of cache
    model.clear();
    for (std::int64_t i = 0; i < full_batch * parts; ++i) {
      model.add_sequence(1.0 / parts, 4096, 4000);
    }
    report(parts == 1 ? "E3" : "E4", model, 1.0 / parts, 4000, ceilings);
  }
}

// The sections named, or all.
void run(const std::vector<std::string>& wanted) {
  const auto section = [&](const char* name) {
    return wanted.empty() || std::ranges::find(wanted, name) != wanted.end();
  };
  const Ceilings ceilings{.read = read_ceiling(), .matmul = matmul_ceiling()};
  std::printf("{\"device\": \"%s\", \"read_TB_s\": %.3f, \"matmul_TFLOP_s\": %.0f}\n",
              CudaBackend({DeviceType::kCuda, 0}).description().c_str(), ceilings.read / 1e12,
              ceilings.matmul / 1e12);
  if (section("Llama-3-8B")) whole_model(llama("Llama-3-8B", 8, 14336, 128256), 100, ceilings);
  if (section("Llama-2-7B")) whole_model(llama("Llama-2-7B", 32, 11008, 32000), 26, ceilings);
  if (section("products")) products(ceilings.read);
}

}  // namespace
}  // namespace moa_rt::cuda::bench

int main(int count, char** arguments) {
  try {
    moa_rt::cuda::bench::run({arguments + 1, arguments + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
