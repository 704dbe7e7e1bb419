// Engine::Impl: the state behind the public class. Its methods are spread over the files of this
// folder by subject: loading, admission, stepping, generating, scoring.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/fair_mutex.h"
#include "moa_rt/engine.h"
#include "model/decoder.h"
#include "ops/backend.h"
#include "runtime/request.h"
#include "runtime/sampler.h"

namespace moa_rt {

class Engine::Impl {
 public:
  Impl(const std::string& model_dir, const EngineOptions& options);
  ~Impl();

  RequestId submit(const std::vector<std::int32_t>& prompt, const RequestOptions& options);
  std::vector<TokenEvent> step();
  void cancel(RequestId request);
  bool has_work() const;

  SessionId open_session(std::int64_t token_budget);
  void close_session(SessionId session);
  std::int64_t session_length(SessionId session) const;
  void rollback_session(SessionId session, std::int64_t count);

  std::vector<Completion> generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                   const std::vector<RequestOptions>& options,
                                   const TokenCallback& on_token);

  std::vector<float> score(const std::vector<std::int32_t>& token_ids, std::int64_t budget);
  std::vector<float> logits(const std::vector<std::int32_t>& token_ids, std::int64_t budget);

  Trace trace(const std::vector<std::int32_t>& token_ids, const TraceOptions& options);

  void set_interrupt(std::function<bool()> interrupted);
  void close();
  bool closed() const { return closed_.load(); }

  const ModelConfig& config() const { return config_; }
  const AttentionPlan& plan() const { return *options_.plan; }
  const Tokenizer& tokenizer() const;
  const EngineOptions& options() const { return options_; }
  MemoryReport memory() const;
  EngineStats stats() const;

 private:
  // --- generate.cc
  class Collector;
  void enqueue_all(const std::vector<std::vector<std::int32_t>>& prompts,
                   const std::vector<RequestOptions>& options, Collector& collector,
                   std::vector<RequestId>& ids);
  void run_until_done(Collector& collector, const std::vector<RequestId>& ids,
                      const TokenCallback& on_token);
  void cancel_all(const std::vector<RequestId>& ids);
  void deliver(const std::vector<TokenEvent>& events, const std::vector<RequestId>& ids,
               const TokenCallback& on_token);

  // --- engine_impl.cc
  // Throws MismatchError if the tokenizer has ids that the embedding has no rows for (C10).
  void check_tokenizer(const std::string& model_dir) const;
  // Throws StateError in a forked child.
  void check_owner() const;
  // Every public call starts with one of these.
  // Throws StateError if closed, in a forked child, or called from a callback of this engine.
  void check_usable() const;
  std::unique_lock<FairMutex> enter() const;
  // For cleaning up. Locks nothing in a forked child, where the holder may not exist.
  std::unique_lock<FairMutex> lock_unless_forked() const;

  // --- admission.cc
  std::unique_ptr<Request> make_request(const std::vector<std::int32_t>& prompt,
                                        const RequestOptions& options, EventSink sink);
  RequestId enqueue(std::unique_ptr<Request> request);
  void check_tokens(const std::vector<std::int32_t>& tokens, const char* what) const;
  Session& find_session(SessionId session);
  KVCache make_cache(std::int64_t budget);
  // Throws ResourceError with the missing bytes if a cache of this budget can never be given out.
  void check_fits_at_all(std::int64_t budget) const;
  std::int64_t cache_bytes(std::int64_t budget) const;
  std::int64_t live_kv_bytes() const;
  bool admit_one(Request& request);
  void admit();
  void drop_cancelled();
  void expire_deadlines();

  // --- score.cc
  // An empty cache for a text that is given whole; budget 0: its own length. Throws ArgumentError,
  // ResourceError or BusyError.
  KVCache make_text_cache(const std::vector<std::int32_t>& token_ids, std::int64_t budget);
  // Feeds the logits of every position of `token_ids` to `take`, in order: those (R, vocab) of R
  // positions from `first` on, where the backend has them.
  using LogitsSink = std::function<void(std::int64_t first, const Tensor& logits)>;
  void for_each_logits(const std::vector<std::int32_t>& token_ids, std::int64_t budget,
                       const LogitsSink& take);

  // --- step.cc
  [[noreturn]] static void throw_stalled();
  // False if requests wait and nothing could be done: open sessions hold the memory they need.
  bool step_locked();
  void run_batch(bool prefill);
  void collect_slices(bool prefill);
  void compute_batch(bool prefill);
  void abandon_batch(const TokenEvent& ending, bool looped);
  void sample_rows();
  void sample_on_host(const Tensor& device_logits);
  void accept_token(Request& request, std::span<const float> logits);
  void take_token(Request& request, std::int32_t token);
  void deliver_token(Request& request, std::optional<TokenLogprob> logprob);
  void hand_back(const Request& request, Session& session);
  void finish(Request& request, TokenEvent event);
  void end_request(Request& request, FinishReason reason);
  void fail(Request& request, ErrorCode code, const std::string& message);
  void remove_finished();
  void emit(const Request& request, TokenEvent event);

  // --- loop_step.cc
  void open_loop(std::int64_t valid_vocab);
  bool step_loop();
  void sample_in_loop(const Tensor& logits);
  void seat(Request& request);
  void launch_loop();
  void close_gaps(std::int64_t seated);
  void collect_loop();
  void accept_result(Request& request, const DecodeResult& result);
  void forget_dead_steps();
  void leave_loop(Request& request);
  void unseat(Request& request) noexcept;
  void forget_rows(Request* request);
  void empty_loop() noexcept;

  ModelConfig config_;
  EngineOptions options_;
  DType dtype_ = DType::kF32;
  pid_t owner_ = 0;

  // Order matters: the backend's allocator outlives everything that was allocated from it.
  std::unique_ptr<Backend> backend_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<Decoder> decoder_;
  Activations activations_;
  std::unique_ptr<Sampler> sampler_;
  MemoryPrediction prediction_;

  std::unique_ptr<DecodeLoop> loop_;  // none: decode runs operation by operation
  std::vector<Request*> loop_rows_;   // who has which row
  // Who is in the steps launched and not collected, by row; loop_oldest_ is the one to collect.
  std::array<std::vector<Request*>, 2> loop_launched_;
  int loop_oldest_ = 0;

  std::deque<std::unique_ptr<Request>> queue_;
  std::vector<std::unique_ptr<Request>> running_;
  std::map<SessionId, std::unique_ptr<Session>> sessions_;
  std::int64_t kv_peak_bytes_ = 0;
  bool last_was_prefill_ = false;
  std::vector<TokenEvent> events_;
  EngineStats stats_;
  RequestId next_id_ = 1;

  // The batch of the step in progress; members so that a step allocates nothing.
  std::vector<Request*> batch_;
  std::vector<SequenceSlice> slices_;
  std::vector<std::int32_t> tokens_;
  std::vector<Request*> sampled_;
  std::vector<std::int64_t> sampled_rows_;
  std::vector<std::int64_t> first_rows_;  // of the loop

  std::function<bool()> interrupted_;

  mutable FairMutex mutex_;            // everything above
  std::mutex generate_mutex_;          // one generate() at a time
  std::mutex cancel_mutex_;            // the next two, so that cancel() never waits for a step
  std::set<RequestId> live_ids_;       // queued or running
  std::set<RequestId> cancelled_ids_;  // of them, to be ended before the next step
  std::atomic<bool> closed_{false};
  std::atomic<bool> close_requested_{false};
  std::atomic<std::thread::id> callback_thread_{};   // inside on_token
  std::atomic<std::thread::id> interrupt_thread_{};  // inside the function of set_interrupt()
};

}  // namespace moa_rt
