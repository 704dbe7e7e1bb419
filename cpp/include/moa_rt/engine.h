// Engine: a decoder with its weights, its KV caches and its running requests.
//
//   moa_rt::Engine engine("models/smollm2-135m-instruct", {});
//   auto prompt = engine.tokenizer().encode("The capital of France is");
//   std::vector<moa_rt::Completion> out = engine.generate({prompt}, {});
//
// An Engine may be used from several threads; calls are serialised by a lock. Several engines live
// in one process without sharing anything.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moa_rt/error.h"
#include "moa_rt/model_config.h"
#include "moa_rt/plan.h"
#include "moa_rt/tokenizer.h"
#include "moa_rt/trace.h"
#include "moa_rt/types.h"

namespace moa_rt {

using RequestId = std::uint64_t;
using SessionId = std::uint64_t;

struct EngineOptions {
  std::optional<AttentionPlan> plan;  // none: dense
  bool force_plan = false;            // accept a plan whose fingerprint is another model's
  std::string device = "cpu";         // "cpu", "cuda", "cuda:<index>"
  std::string dtype = "auto";         // "auto": as stored; "bfloat16", "float32"
  std::int64_t max_batch = 8;         // requests that run at the same time
  std::int64_t max_queue = 4096;      // waiting requests; submit() refuses more with BusyError
  std::int64_t max_seq_len = 0;       // longest token budget; 0: the model's own limit
  std::int64_t prefill_chunk = 256;   // tokens of prompts processed in one step
  std::int64_t num_threads = 0;       // 0: one for each available core
  std::int64_t kv_cache_bytes = 0;    // bound on all KV caches together; 0: what memory allows
  std::string cpu_isa = "auto";       // "auto", "portable", "avx2", "avx512", "avx512_bf16"
};

struct SamplingOptions {
  double temperature = 0.0;         // 0, or anything below 1e-5: greedy
  std::int64_t top_k = 0;           // 0: off
  double top_p = 1.0;               // (0, 1]
  double min_p = 0.0;               // [0, 1]
  double repetition_penalty = 1.0;  // > 0, over prompt and output (CTRL, arXiv 1909.05858)
  double presence_penalty = 0.0;    // [-2, 2], over the output
  double frequency_penalty = 0.0;   // [-2, 2], over the output
  std::vector<std::pair<std::int64_t, double>> logit_bias;  // token id, value added to its logit
  std::optional<std::uint64_t> seed;  // none: drawn once per request from the system
};

struct RequestOptions {
  SamplingOptions sampling;
  std::optional<std::int64_t> max_new_tokens = 256;  // none: up to the sequence's token budget
  std::int64_t min_new_tokens = 0;                   // no stop by token before this many
  std::vector<std::int64_t> stop_token_ids;
  std::vector<std::string> stop;  // the output ends before the first of these
  bool ignore_eos = false;
  bool truncate_left = false;        // drop the oldest prompt tokens instead of refusing (G3)
  std::int64_t logprobs = -1;        // -1: none; 0: of the chosen token; k: and of the k likeliest
  double deadline_seconds = 0.0;     // 0: none; a request still queued after this long fails (G17)
  std::optional<SessionId> session;  // continue this live sequence
};

enum class FinishReason : std::uint8_t { kNone, kStop, kLength, kCancelled, kError };
// "", "stop", "length", "cancelled", "error".
const char* finish_reason_name(FinishReason reason) noexcept;

struct TokenLogprob {
  std::int32_t token = 0;
  float logprob = 0.0f;  // natural log, of the model's own distribution, before any sampling option
  std::vector<std::pair<std::int32_t, float>> top;  // likeliest first
};

// What one step did to one request. Either a token, or the end, or both.
struct TokenEvent {
  RequestId request = 0;
  std::optional<std::int32_t> token;
  std::string text;  // whole characters only; may be empty
  std::optional<TokenLogprob> logprob;
  FinishReason finish = FinishReason::kNone;
  std::string error;  // with kError: what went wrong
  std::optional<ErrorCode> error_code;
};

struct Completion {
  std::vector<std::int32_t> token_ids;
  std::string text;
  FinishReason finish_reason = FinishReason::kNone;
  std::vector<TokenLogprob> logprobs;
  std::int64_t prompt_tokens = 0;
  std::int64_t completion_tokens = 0;
  std::string error;
  std::optional<ErrorCode> error_code;
};

// Bytes, split by what they are for.
struct MemoryReport {
  std::int64_t weights = 0;
  std::int64_t kv_cache = 0;  // live sequences now
  std::int64_t kv_cache_peak = 0;
  std::int64_t kv_cache_limit = 0;  // what admission may give out
  std::int64_t scratch = 0;         // activations, logits, backend workspaces
  std::int64_t runtime = 0;         // tokenizer tables, code and fixed overheads
  std::int64_t total() const { return weights + kv_cache + scratch + runtime; }
};

struct EngineStats {
  std::int64_t steps = 0;
  std::int64_t prefill_tokens = 0;
  std::int64_t decode_tokens = 0;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  std::int64_t decode_bytes = 0;  // weights and KV read by decode steps, for achieved GB/s
  std::int64_t allocations = 0;   // blocks ever taken from the device's allocator
  // Of decode that stays on the device, one CUDA graph a step; 0 elsewhere.
  std::int64_t loop_steps = 0;    // steps launched
  std::int64_t graph_builds = 0;  // graphs recorded: one for each size of batch
  std::int64_t graph_nodes = 0;   // of the step launched last
  std::int64_t device_waits = 0;  // times the host waited with no further step queued
};

// The bytes an engine with these options will need, from the configuration alone: no weight is
// read.
struct MemoryPrediction {
  std::int64_t weights = 0;
  std::int64_t scratch = 0;
  std::int64_t runtime = 0;
  std::int64_t kv_per_sequence = 0;  // at max_seq_len
  std::int64_t largest_kv = 0;       // at any length up to it: a plan may be dense below its range
  std::int64_t dense_kv_per_sequence = 0;  // what a dense plan would take
  std::vector<std::int64_t> kv_per_layer;  // of one sequence
  std::int64_t total(std::int64_t sequences) const {
    const std::int64_t kv = sequences * kv_per_sequence;
    return weights + scratch + runtime + (kv > 0 && kv < largest_kv ? largest_kv : kv);
  }
};
MemoryPrediction predict_memory(const std::string& model_dir, const EngineOptions& options);

// Reads every file of a converted model and compares it with its SHA-256 in the manifest. Throws
// FormatError naming the file and, where it can be told, the tensor.
void verify_model(const std::string& model_dir);

class Engine {
 public:
  // Checks config, plan against config, weight manifest and predicted bytes against free memory, in
  // this order, before any weight is read.
  Engine(const std::string& model_dir, const EngineOptions& options);
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  // Queues a prompt (token ids, at least one). The sequence's token budget N = prompt +
  // max_new_tokens fixes its spans for good. Throws ArgumentError for a prompt or option out of
  // bounds, ResourceError with the missing bytes if it can never fit.
  RequestId submit(const std::vector<std::int32_t>& prompt, const RequestOptions& options = {});

  // Admits what fits, runs one prefill chunk or one decode step over all running sequences,
  // samples, and returns what happened. Returns an empty vector when there is nothing to do. Throws
  // BusyError if requests wait for nothing but memory that open sessions hold. Whatever else is
  // thrown ends the requests of this step with kError (their events come with the next call) and
  // closes their sessions, for their caches are half written; all others go on.
  std::vector<TokenEvent> step();

  // Takes effect before the next step. Unknown and finished ids are ignored. From any thread and
  // any callback.
  void cancel(RequestId request);

  // Whether a request is queued or running.
  bool has_work() const;

  // A conversation: one sequence that outlives its requests. `token_budget` is its N.
  SessionId open_session(std::int64_t token_budget);
  // Cancels its request. Closed and unknown ids are ignored: an interrupt may have closed it.
  void close_session(SessionId session);
  // Tokens in the session's cache plus the one not yet appended.
  std::int64_t session_length(SessionId session) const;
  // Takes back the last `count` tokens. Throws StateError, and changes nothing, if a window has
  // already dropped a token that would be needed again.
  void rollback_session(SessionId session, std::int64_t count);

  // A loop over submit() and step(), one call at a time. `on_token` is called after each step, one
  // event at a time, with event.request = index of the prompt; returning false cancels that
  // request. No two prompts may continue the same session.
  using TokenCallback = std::function<bool(const TokenEvent&)>;
  std::vector<Completion> generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                   const RequestOptions& options = {},
                                   const TokenCallback& on_token = nullptr);
  // One set of options for each prompt.
  std::vector<Completion> generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                   const std::vector<RequestOptions>& options,
                                   const TokenCallback& on_token = nullptr);

  // Natural-log probability of token_ids[i + 1] given token_ids[0..i], float32 (T - 1). `budget` is
  // the N that fixes the spans, 0 for T.
  std::vector<float> score(const std::vector<std::int32_t>& token_ids, std::int64_t budget = 0);
  // Logits of every position, float32 (T, vocab_size), row-major. For checking, not for speed.
  std::vector<float> logits(const std::vector<std::int32_t>& token_ids, std::int64_t budget = 0);
  // What the kept layers computed in one pass over a text, through the same kernels and caches as
  // everything else. For finding faults, not for speed.
  Trace trace(const std::vector<std::int32_t>& token_ids, const TraceOptions& options);

  // Asked between the layers of a step (decode on a GPU: before it); returning true abandons the
  // step: its requests are cancelled, their caches wiped, their sessions closed, and the call
  // throws StateError. For Ctrl-C. It may call nothing of this engine but cancel().
  void set_interrupt(std::function<bool()> interrupted);

  // Cancels what runs and frees everything. Idempotent. Later calls throw StateError, except
  // cancel(), closed() and what describes the engine: config(), plan(), tokenizer(), options().
  void close();
  bool closed() const;

  const ModelConfig& config() const;
  const AttentionPlan& plan() const;
  const Tokenizer& tokenizer() const;
  const EngineOptions& options() const;  // as resolved: no 0 and, but for cpu_isa, no "auto"
  MemoryReport memory() const;
  EngineStats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moa_rt
