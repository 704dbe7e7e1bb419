// The CPU backend with a decode loop as a GPU's has one, so that any machine shows that the engine
// copes with it: a step runs when it is launched, ahead of the lengths that the host knows, and its
// results are handed out at collect().
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "moa_rt/error.h"
#include "ops/backend.h"
#include "runtime/logits.h"
#include "runtime/sampler.h"

namespace moa_rt::testing {

class HostLoop final : public DecodeLoop {
 public:
  HostLoop(DecodeModel model, const BackendLimits& limits)
      : model_(std::move(model)),
        vocab_(static_cast<std::size_t>(limits.vocab)),
        sampler_(limits.vocab, model_.valid_vocab),
        rows_(static_cast<std::size_t>(limits.max_sequences)) {}

  void join(std::int64_t row, const DecodeSequence& sequence) override {
    Row& joined = at(row).emplace();
    joined.cache = sequence.cache;
    joined.position = sequence.cache->length();
    joined.token = sequence.token;
    joined.index = sequence.index;
    joined.seed = sequence.seed;
    joined.min_new_tokens = sequence.min_new_tokens;
    joined.logprobs = sequence.logprobs;
    joined.keep = sequence.can_take_back;
    joined.stop_ids.assign(sequence.stop_ids.begin(), sequence.stop_ids.end());
    const SamplingPlan& plan = sequence.sampling;
    SamplingOptions& options = joined.options;
    options.temperature = plan.greedy ? 0.0 : plan.temperature;
    options.top_k = plan.top_k;
    options.top_p = plan.top_p;
    options.min_p = plan.greedy ? 0.0 : std::exp(plan.least / plan.temperature);
    options.repetition_penalty = plan.repetition_penalty;
    options.frequency_penalty = plan.frequency_penalty;
    options.presence_penalty = plan.presence_penalty;
    options.logit_bias.assign(sequence.logit_bias.begin(), sequence.logit_bias.end());
    for (const SeenToken& seen : sequence.history) {
      joined.history.add_prompt(seen.token);
      for (int i = 0; i < seen.output_count; ++i) joined.history.add_output(seen.token);
    }
  }
  void leave(std::int64_t row) override { at(row).reset(); }
  void move(std::int64_t from, std::int64_t to) override {
    if (at(to)) throw std::logic_error("moved onto a busy row");
    at(to) = std::move(at(from));
    at(from).reset();
  }

  std::span<const DecodeResult> sample_first(std::span<const std::int64_t> rows,
                                             const Tensor& logits) override {
    firsts_.assign(rows.size(), {});
    first_top_.assign(rows.size(), {});
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0) continue;
      Row& row = *at(rows[i]);
      firsts_[i] = sample(row, {logits.data<float>() + i * vocab_, vocab_}, first_top_[i]);
      row.token = firsts_[i].token;
      ++row.index;
    }
    return firsts_;
  }

  void launch() override {
    if (in_flight() == 2) throw std::logic_error("a third step in flight");
    Step& step = steps_[static_cast<std::size_t>(launched_++ % 2)];
    step.results.assign(rows_.size(), {});
    step.top.assign(rows_.size(), {});
    step.overwritten.assign(rows_.size(), {});
    widest_ = 0;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (!rows_[row]) continue;
      widest_ = static_cast<std::int64_t>(row) + 1;
      run(*rows_[row], step, row);
    }
  }
  std::span<const DecodeResult> collect() override {
    if (in_flight() == 0) throw std::logic_error("nothing in flight");
    return steps_[static_cast<std::size_t>(collected_++ % 2)].results;
  }
  std::int64_t in_flight() const override { return launched_ - collected_; }

  void take_back(std::int64_t row, KVCache& cache, std::int64_t position) override {
    const Step& step = steps_[static_cast<std::size_t>((launched_ - 1) % 2)];
    const std::vector<std::byte>& bytes = step.overwritten[static_cast<std::size_t>(row)];
    if (bytes.empty() || cache.length() != position) throw std::logic_error("nothing was kept");
    const std::byte* kept = bytes.data();
    each_slot(cache, position, [&](std::byte* slot, std::size_t size) {
      std::memcpy(slot, kept, size);
      kept += size;
    });
  }
  void wait() override {}
  // `nodes` is the number of rows that the last step needed.
  DecodeCounters counters() const override { return {.steps = launched_, .nodes = widest_}; }

 private:
  struct Row {
    KVCache* cache = nullptr;
    std::int64_t position = 0;
    std::int32_t token = 0;
    std::int64_t index = 0;
    std::uint64_t seed = 0;
    SamplingOptions options;
    TokenHistory history;
    std::vector<std::int64_t> stop_ids;
    std::int64_t min_new_tokens = 0;
    std::int64_t logprobs = -1;
    bool keep = false;
  };
  struct Step {
    std::vector<DecodeResult> results;
    std::vector<std::vector<TopToken>> top;
    std::vector<std::vector<std::byte>> overwritten;
  };
  std::optional<Row>& at(std::int64_t row) { return rows_[static_cast<std::size_t>(row)]; }

  // Key and value of a position in every head.
  template <typename Body>
  static void each_slot(const KVCache& cache, std::int64_t position, Body body) {
    const CacheLayout& layout = cache.layout();
    const std::int64_t bytes = layout.head_dim() * size_of(layout.dtype());
    for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
      for (std::int64_t head = 0; head < layout.num_kv_heads(); ++head) {
        const HeadSegment segment = cache.segment(layer, head);
        const std::int64_t offset = slot_of(segment.head, position) * bytes;
        body(segment.keys + offset, static_cast<std::size_t>(bytes));
        body(segment.values + offset, static_cast<std::size_t>(bytes));
      }
    }
  }

  // The cache's length is the host's, up to a step behind.
  void run(Row& row, Step& step, std::size_t index) {
    KVCache& cache = *row.cache;
    if (row.keep) {
      std::vector<std::byte>& kept = step.overwritten[index];
      each_slot(cache, row.position, [&](const std::byte* slot, std::size_t size) {
        kept.insert(kept.end(), slot, slot + size);
      });
    }
    const std::int64_t ahead = row.position - cache.length();
    cache.advance(ahead);
    const SequenceSlice slice{&cache, 0, 1, row.position};
    const Tensor logits = model_.logits({&row.token, 1}, {&slice, 1});
    cache.rollback(ahead);
    step.results[index] = sample(row, {logits.data<float>(), vocab_}, step.top[index]);
    row.token = step.results[index].token;
    ++row.position;
    ++row.index;
  }

  DecodeResult sample(Row& row, std::span<const float> logits, std::vector<TopToken>& top) {
    DecodeResult result;
    try {
      const bool stop_allowed = row.index + 1 >= row.min_new_tokens;
      result.token = sampler_.sample(logits, row.options, row.history, row.seed, row.index,
                                     stop_allowed ? std::span<const std::int64_t>() : row.stop_ids);
    } catch (const NumericError&) {
      result.fault = LogitFault::kNotANumber;
      return result;
    }
    if (row.logprobs >= 0) {
      const TokenLogprob logprob = token_logprob(logits, result.token, row.logprobs);
      result.logprob = logprob.logprob;
      for (const auto& [token, value] : logprob.top) top.push_back({token, value});
      result.top = top;
    }
    if (uses_history(row.options)) row.history.add_output(result.token);
    return result;
  }

  DecodeModel model_;
  std::size_t vocab_;
  Sampler sampler_;
  std::vector<std::optional<Row>> rows_;
  std::array<Step, 2> steps_;
  std::vector<DecodeResult> firsts_;
  std::vector<std::vector<TopToken>> first_top_;
  std::int64_t launched_ = 0;
  std::int64_t collected_ = 0;
  std::int64_t widest_ = 0;
};

// The CPU's operations, and a HostLoop.
class LoopBackend final : public Backend {
 public:
  static inline std::int64_t host_reads = 0;  // of logits, by all of them

  Device device() const override { return cpu_->device(); }
  std::string description() const override { return cpu_->description(); }
  Allocator& allocator() override { return cpu_->allocator(); }
  bool supports(DType dtype) const override { return cpu_->supports(dtype); }
  bool supports_head_dim(std::int64_t dim) const override { return cpu_->supports_head_dim(dim); }
  std::int64_t free_bytes() const override { return cpu_->free_bytes(); }
  std::int64_t workspace_bytes(const BackendLimits& limits) const override {
    return cpu_->workspace_bytes(limits);
  }
  void reserve(const BackendLimits& limits) override {
    limits_ = limits;
    cpu_->reserve(limits);
  }
  std::int64_t matrix_bytes(std::int64_t rows, std::int64_t cols, DType dtype) const override {
    return cpu_->matrix_bytes(rows, cols, dtype);
  }
  Matrix load_matrix(std::int64_t rows, std::int64_t cols, DType dtype,
                     const RowReader& reader) override {
    return cpu_->load_matrix(rows, cols, dtype, reader);
  }
  void copy_to_device(Tensor& destination, const void* source) override {
    cpu_->copy_to_device(destination, source);
  }
  void copy_to_host(void* destination, const Tensor& source) override {
    cpu_->copy_to_host(destination, source);
  }
  const float* host_floats(const Tensor& x) override {
    ++host_reads;
    return cpu_->host_floats(x);
  }
  void embed(const Matrix& table, std::span<const std::int32_t> tokens, Tensor& out) override {
    cpu_->embed(table, tokens, out);
  }
  void rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& out) override {
    cpu_->rms_norm(x, weight, eps, out);
  }
  void matmul(const Tensor& x, const Matrix& weight, const Tensor* bias, bool accumulate,
              Tensor& out) override {
    cpu_->matmul(x, weight, bias, accumulate, out);
  }
  void silu_mul(const Tensor& gate_up, Tensor& out) override { cpu_->silu_mul(gate_up, out); }
  void rope_append(const RopeArgs& args, Tensor& qkv) override { cpu_->rope_append(args, qkv); }
  void attention(const AttentionArgs& args, const Tensor& qkv, Tensor& out) override {
    cpu_->attention(args, qkv, out);
  }
  void gather_rows(const Tensor& x, std::span<const std::int64_t> index, Tensor& out) override {
    cpu_->gather_rows(x, index, out);
  }
  void token_logprobs(const Tensor& logits, std::span<const std::int32_t> tokens,
                      std::span<RowLogprob> out) override {
    cpu_->token_logprobs(logits, tokens, out);
  }
  std::unique_ptr<DecodeLoop> decode_loop(const DecodeModel& model) override {
    return std::make_unique<HostLoop>(model, limits_);
  }

 private:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(2);
  BackendLimits limits_;
};

}  // namespace moa_rt::testing
