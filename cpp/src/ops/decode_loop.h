// DecodeLoop: decode that stays on the device. A backend that can gives one out; the engine's step
// then runs decode through it instead of operation by operation.
//
// Each row holds one sequence: its last token, its position and all that sampling needs live on the
// device, and a step feeds its own token to the next. The host launches a step before it has read
// the one before; what a step too many has written to a cache that lives on can be taken back.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "cache/kv_cache.h"
#include "core/tensor.h"

namespace moa_rt {

struct SequenceSlice;

// A token that penalties know.
struct SeenToken {
  std::int32_t token = 0;
  std::int32_t output_count = 0;  // times in the output; 0: only in the prompt
};

// SamplingOptions as numbers, resolved by the sampler.
struct SamplingPlan {
  bool greedy = true;
  double temperature = 1.0;
  double least = 0.0;  // how far below the largest a score may lie: min-p and what is negligible
  std::int64_t top_k = 0;  // 0: all
  double top_p = 1.0;
  bool uses_history = false;
  double repetition_penalty = 1.0;
  double frequency_penalty = 0.0;
  double presence_penalty = 0.0;
};

struct DecodeSequence {
  KVCache* cache = nullptr;  // holds everything before `token`
  std::int32_t token = 0;    // sampled last, appended by the next step; see sample_first()
  std::int64_t index = 0;    // output position that the next step samples
  std::uint64_t seed = 0;
  SamplingPlan sampling;
  std::span<const std::pair<std::int64_t, double>> logit_bias;
  std::span<const SeenToken> history;      // in use if sampling.uses_history
  std::span<const std::int64_t> stop_ids;  // ruled out before min_new_tokens
  std::int64_t min_new_tokens = 0;
  std::int64_t logprobs = -1;  // as RequestOptions::logprobs
  bool can_take_back = false;  // keep what a step overwrites
};

// Why no token could be chosen (L1, L2).
enum class LogitFault : std::int32_t { kNone, kNotANumber, kInfinite, kNothingLeft };

struct TopToken {
  std::int32_t token = 0;
  float logprob = 0.0f;
};

struct DecodeResult {
  std::int32_t token = 0;
  LogitFault fault = LogitFault::kNone;
  std::int32_t faulty = 0;        // token whose logit it is
  float logprob = 0.0f;           // if asked for
  std::span<const TopToken> top;  // likeliest first
};

// What the loop is made of: launches one decode step over one-row slices, rows 0, 1, ..., and
// returns their logits (M, vocab).
struct DecodeModel {
  std::function<Tensor(std::span<const std::int32_t>, std::span<const SequenceSlice>)> logits;
  std::int64_t valid_vocab = 0;  // ids from here on are never chosen (C10)
};

struct DecodeCounters {
  std::int64_t steps = 0;
  std::int64_t builds = 0;  // steps recorded: one for each size of batch
  std::int64_t nodes = 0;   // kernels and copies of the step launched last
  std::int64_t waits = 0;   // times the host waited with no further step queued on the device
};

class DecodeLoop {
 public:
  virtual ~DecodeLoop() = default;

  // From the next launch on the row runs this sequence, or nothing. Rows are below max_sequences.
  virtual void join(std::int64_t row, const DecodeSequence& sequence) = 0;
  virtual void leave(std::int64_t row) = 0;
  // `to` runs nothing now and `from` afterwards.
  virtual void move(std::int64_t from, std::int64_t to) = 0;

  // Samples what follows a prompt as a step would, for rows that have just joined without a token:
  // row rows[i] by logits[i] of logits (R, vocab); -1: none. Their next step appends what is
  // sampled. Waits; results by i, until the next call.
  virtual std::span<const DecodeResult> sample_first(std::span<const std::int64_t> rows,
                                                     const Tensor& logits) = 0;

  // One step of all rows. At most two may be launched and not collected.
  virtual void launch() = 0;
  // Results of the oldest step not collected, by row; those of idle rows mean nothing. Waits for
  // that step alone.
  virtual std::span<const DecodeResult> collect() = 0;
  virtual std::int64_t in_flight() const = 0;

  // Gives the cache back the slots that the last launched step overwrote when `row` appended the
  // token at `position`.
  virtual void take_back(std::int64_t row, KVCache& cache, std::int64_t position) = 0;
  // Until the device has done everything launched.
  virtual void wait() = 0;

  virtual DecodeCounters counters() const = 0;
};

}  // namespace moa_rt
