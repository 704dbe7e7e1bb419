// generate(): a loop over step() that collects the events of its own requests.
#include <set>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"
#include "runtime/callback_scope.h"
#include "runtime/engine_impl.h"

namespace moa_rt {
namespace {

// Two requests would append to the same cache at once.
void check_sessions_differ(const std::vector<RequestOptions>& options) {
  std::set<SessionId> seen;
  for (const RequestOptions& one : options) {
    if (!one.session || seen.insert(*one.session).second) continue;
    throw ArgumentError(describe({.item = "session " + std::to_string(*one.session),
                                  .got = "two prompts in one call",
                                  .want = "one after the other"}));
  }
}

}  // namespace

// The requests of one generate() call and what has come of them. Used under the engine's lock:
// steps of other threads bring events too.
class Engine::Impl::Collector {
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
  check_sessions_differ(options);
  if (prompts.empty()) return {};
  const std::scoped_lock one_at_a_time(generate_mutex_);
  Collector collector(prompts.size());
  std::vector<RequestId> ids;
  try {
    enqueue_all(prompts, options, collector, ids);
    run_until_done(collector, ids, on_token);
  } catch (...) {
    cancel_all(ids);
    if (close_requested_.exchange(false)) close();
    throw;
  }
  if (close_requested_.exchange(false)) close();
  return std::move(collector.completions());
}

// All are checked before one is queued.
void Engine::Impl::enqueue_all(const std::vector<std::vector<std::int32_t>>& prompts,
                               const std::vector<RequestOptions>& options, Collector& collector,
                               std::vector<RequestId>& ids) {
  const auto lock = enter();
  std::vector<std::unique_ptr<Request>> requests;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    requests.push_back(make_request(prompts[i], options[i], collector.sink(i)));
    collector.completions()[i].prompt_tokens =
        static_cast<std::int64_t>(requests.back()->prompt.size());
  }
  ids.reserve(requests.size());
  for (auto& request : requests) ids.push_back(enqueue(std::move(request)));
}

void Engine::Impl::run_until_done(Collector& collector, const std::vector<RequestId>& ids,
                                  const TokenCallback& on_token) {
  for (bool done = false; !done;) {
    check_owner();  // a callback may have forked
    std::vector<TokenEvent> events;
    {
      const std::scoped_lock lock(mutex_);
      const bool stalled = !closed_.load() && !step_locked();
      done = collector.done();
      if (stalled && !done) throw_stalled();
      events = collector.take_events();
    }
    deliver(events, ids, on_token);
  }
}

// Afterwards nothing knows the collector of these requests any more, even while another thread is
// closing the engine.
void Engine::Impl::cancel_all(const std::vector<RequestId>& ids) {
  for (const RequestId id : ids) cancel(id);
  const auto lock = lock_unless_forked();
  drop_cancelled();
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
