// generate(): a loop over step() that collects the events of its own requests.
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"
#include "runtime/engine_impl.h"

namespace moa_rt {
namespace {

// The requests of one generate() call and what has come of them.
class Collector {
 public:
  explicit Collector(std::size_t prompts) : completions_(prompts), done_(prompts, false) {}

  EventSink sink(std::size_t index) {
    return [this, index](const TokenEvent& event) { take(index, event); };
  }

  bool done() const { return finished_ == completions_.size(); }
  std::vector<TokenEvent> take_events() { return std::exchange(events_, {}); }
  std::vector<Completion>& completions() { return completions_; }

 private:
  void take(std::size_t index, const TokenEvent& event) {
    if (done_[index]) return;
    Completion& completion = completions_[index];
    if (event.token) completion.token_ids.push_back(*event.token);
    if (event.logprob) completion.logprobs.push_back(*event.logprob);
    completion.text += event.text;
    if (event.finish != FinishReason::kNone) {
      completion.finish_reason = event.finish;
      completion.error = event.error;
      completion.error_code = event.error_code;
      completion.completion_tokens = static_cast<std::int64_t>(completion.token_ids.size());
      done_[index] = true;
      ++finished_;
    }
    events_.push_back(event);
    events_.back().request = index;
  }

  std::vector<Completion> completions_;
  std::vector<bool> done_;
  std::size_t finished_ = 0;
  std::vector<TokenEvent> events_;
};

// Marks the current thread as being inside a callback, for as long as it lives.
class CallbackScope {
 public:
  explicit CallbackScope(std::atomic<std::thread::id>& thread) : thread_(thread) {
    thread_.store(std::this_thread::get_id());
  }
  ~CallbackScope() { thread_.store(std::thread::id()); }
  CallbackScope(const CallbackScope&) = delete;
  CallbackScope& operator=(const CallbackScope&) = delete;

 private:
  std::atomic<std::thread::id>& thread_;
};

}  // namespace

std::vector<Completion> Engine::Impl::generate(
    const std::vector<std::vector<std::int32_t>>& prompts,
    const std::vector<RequestOptions>& options, const TokenCallback& on_token) {
  check_usable();
  if (options.size() != prompts.size()) {
    throw ArgumentError(
        describe({.field = "options",
                  .got = std::to_string(options.size()) + " entries",
                  .want = "one for each of the " + std::to_string(prompts.size()) + " prompts"}));
  }
  if (prompts.empty()) return {};
  const std::scoped_lock one_at_a_time(generate_mutex_);

  Collector collector(prompts.size());
  std::vector<RequestId> ids;
  {
    const auto lock = enter();
    std::vector<std::unique_ptr<Request>> requests;  // all are checked before one is queued
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      requests.push_back(make_request(prompts[i], options[i], collector.sink(i)));
      collector.completions()[i].prompt_tokens =
          static_cast<std::int64_t>(requests.back()->prompt.size());
    }
    for (auto& request : requests) ids.push_back(enqueue(std::move(request)));
  }

  const auto cancel_all = [&] {
    for (const RequestId id : ids) cancel(id);
    if (closed_.load()) return;
    const std::scoped_lock lock(mutex_);
    drop_cancelled();
  };
  try {
    while (!collector.done()) {
      const StepOutcome outcome = step_for_generate();
      deliver(collector.take_events(), ids, on_token);
      if (outcome == StepOutcome::kAbandoned) {
        throw StateError("interrupted; its requests were cancelled");
      }
      if (outcome == StepOutcome::kStalled) {
        throw BusyError("open sessions hold the memory that the queued requests wait for");
      }
    }
  } catch (...) {
    cancel_all();
    if (close_requested_.exchange(false)) close();
    throw;
  }
  if (close_requested_.exchange(false)) close();
  return std::move(collector.completions());
}

// Events go to the collectors while the lock is held; nothing else can happen to them after
// close().
Engine::Impl::StepOutcome Engine::Impl::step_for_generate() {
  const std::scoped_lock lock(mutex_);
  if (closed_.load()) return StepOutcome::kProgress;
  const std::int64_t steps = stats_.steps;
  step_locked();
  if (std::exchange(abandoned_, false)) return StepOutcome::kAbandoned;
  const bool stalled = stats_.steps == steps && running_.empty() && !queue_.empty();
  return stalled ? StepOutcome::kStalled : StepOutcome::kProgress;
}

// Calls the user's function outside the lock; what it may not do, check_usable() refuses.
void Engine::Impl::deliver(const std::vector<TokenEvent>& events, const std::vector<RequestId>& ids,
                           const TokenCallback& on_token) {
  if (on_token) {
    const CallbackScope scope(callback_thread_);
    for (const TokenEvent& event : events) {
      if (!on_token(event)) cancel(ids[event.request]);
    }
  }
  if (close_requested_.load()) {
    for (const RequestId id : ids) cancel(id);
  }
}

}  // namespace moa_rt
