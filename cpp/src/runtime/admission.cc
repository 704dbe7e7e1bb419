// Requests and sessions: checked when they arrive, admitted when a slot and their exact bytes are
// free.
#include <algorithm>
#include <random>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"
#include "runtime/engine_impl.h"

namespace moa_rt {
namespace {

using Clock = std::chrono::steady_clock;

void check_option(const char* name, bool good, const std::string& got, const char* want) {
  if (!good) throw ArgumentError(describe({.field = name, .got = got, .want = want}));
}

void check_options(const RequestOptions& options) {
  const std::int64_t new_tokens = options.max_new_tokens.value_or(0);
  check_option("max_new_tokens", new_tokens >= 0, std::to_string(new_tokens), ">= 0");
  check_option("min_new_tokens", options.min_new_tokens >= 0,
               std::to_string(options.min_new_tokens), ">= 0");
  if (options.max_new_tokens) {
    check_option("min_new_tokens", options.min_new_tokens <= new_tokens,
                 std::to_string(options.min_new_tokens), "at most max_new_tokens");
  }
  constexpr std::int64_t kMaxLogprobs = 64;
  check_option("logprobs", options.logprobs >= -1 && options.logprobs <= kMaxLogprobs,
               std::to_string(options.logprobs), "-1..64");
  const double deadline = options.deadline_seconds;
  check_option("deadline_seconds", deadline >= 0.0 && deadline <= 1e9, std::to_string(deadline),
               "0..1e9");
}

std::uint64_t draw_seed() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32) | device();
}

std::string sum_text(std::int64_t held, std::int64_t prompt, std::int64_t new_tokens) {
  return (held > 0 ? "session " + std::to_string(held) + " + " : "") + "prompt " +
         std::to_string(prompt) + " + max_new_tokens " + std::to_string(new_tokens) + " = " +
         std::to_string(static_cast<std::uint64_t>(held + prompt) +
                        static_cast<std::uint64_t>(new_tokens)) +
         " tokens";
}

}  // namespace

void Engine::Impl::check_tokens(const std::vector<std::int32_t>& tokens, const char* what) const {
  if (tokens.empty()) {
    throw ArgumentError(describe({.field = what, .got = "0 tokens", .want = "at least 1"}));
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < config_.vocab_size) continue;
    throw ArgumentError(describe({.item = what,
                                  .field = "token " + std::to_string(i),
                                  .got = std::to_string(tokens[i]),
                                  .want = "0.." + std::to_string(config_.vocab_size - 1)}));
  }
}

std::int64_t Engine::Impl::cache_bytes(std::int64_t budget) const {
  return options_.plan->cache_bytes(budget, config_.head_dim, dtype_);
}

std::int64_t Engine::Impl::live_kv_bytes() const {
  std::int64_t bytes = 0;
  for (const auto& request : running_) {
    if (request->owned_cache) bytes += request->owned_cache->bytes();
  }
  for (const auto& [id, session] : sessions_) bytes += session->cache.bytes();
  return bytes;
}

void Engine::Impl::check_fits_at_all(std::int64_t budget) const {
  const std::int64_t bytes = cache_bytes(budget);
  if (bytes <= options_.kv_cache_bytes) return;
  throw ResourceError("KV cache of a sequence of " + std::to_string(budget) + " tokens: need " +
                      std::to_string(bytes) + " bytes, limit " +
                      std::to_string(options_.kv_cache_bytes) + ", missing " +
                      std::to_string(bytes - options_.kv_cache_bytes));
}

KVCache Engine::Impl::make_cache(std::int64_t budget) {
  CacheLayout layout(options_.plan->spans(budget), config_.head_dim, dtype_);
  KVCache cache(backend_->allocator(), std::move(layout));
  kv_peak_bytes_ = std::max(kv_peak_bytes_, live_kv_bytes() + cache.bytes());
  return cache;
}

std::unique_ptr<Request> Engine::Impl::make_request(const std::vector<std::int32_t>& prompt,
                                                    const RequestOptions& options, EventSink sink) {
  check_tokens(prompt, "prompt");
  check_options(options);
  validate_sampling(options.sampling, config_.vocab_size);

  auto request = std::make_unique<Request>();
  request->options = options;
  request->sink = std::move(sink);
  request->prompt = prompt;
  std::int64_t held = 0;
  std::int64_t limit = options_.max_seq_len;
  if (options.session) {
    request->session = &find_session(*options.session);
    if (request->session->active) {
      throw StateError("session " + std::to_string(*options.session) + " already has request " +
                       std::to_string(*request->session->active));
    }
    held = request->session->length();
    limit = request->session->budget;
  }
  if (options.truncate_left) {
    const std::int64_t room = limit - held - options.max_new_tokens.value_or(1);
    const auto size = static_cast<std::int64_t>(prompt.size());
    if (room >= 1 && room < size) request->prompt.assign(prompt.end() - room, prompt.end());
  }
  const auto size = static_cast<std::int64_t>(request->prompt.size());
  request->max_new_tokens = options.max_new_tokens.value_or(limit - held - size);
  if (request->max_new_tokens < 0 || held + size > limit ||
      request->max_new_tokens > limit - held - size) {
    throw ArgumentError(
        describe({.got = sum_text(held, size, std::max<std::int64_t>(request->max_new_tokens, 0)),
                  .want = "at most " + std::to_string(limit)}));
  }
  request->budget = held + size + request->max_new_tokens;
  if (!options.session) check_fits_at_all(request->budget);

  request->seed = options.sampling.seed ? *options.sampling.seed : draw_seed();
  for (const std::int64_t id : options.stop_token_ids) {
    check_option("stop_token_ids", id >= 0 && id < config_.vocab_size, std::to_string(id),
                 "an id of the vocabulary");
  }
  std::vector<std::int64_t> stop_ids = options.stop_token_ids;
  if (!options.ignore_eos) {
    stop_ids.insert(stop_ids.end(), config_.eos_token_ids.begin(), config_.eos_token_ids.end());
  }
  request->stops = StopRules(std::move(stop_ids), options.stop);
  if (!options.stop.empty() && !tokenizer_) {
    throw ArgumentError("stop: stop strings need a tokenizer, and this model has none");
  }
  if (tokenizer_) request->detokenizer.emplace(*tokenizer_);
  if (options.deadline_seconds > 0.0) {
    request->deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(options.deadline_seconds));
  }
  return request;
}

RequestId Engine::Impl::enqueue(std::unique_ptr<Request> request) {
  const RequestId id = next_id_++;
  request->id = id;
  Session* session = request->session;
  queue_.push_back(std::move(request));
  if (session != nullptr) session->active = id;
  const std::scoped_lock lock(cancel_mutex_);
  live_ids_.insert(id);
  return id;
}

RequestId Engine::Impl::submit(const std::vector<std::int32_t>& prompt,
                               const RequestOptions& options) {
  const auto lock = enter();
  if (static_cast<std::int64_t>(queue_.size()) >= options_.max_queue) {
    throw BusyError("queue is full: " + std::to_string(queue_.size()) + " requests wait");
  }
  return enqueue(make_request(prompt, options, nullptr));
}

// Gives the request its cache. False: not yet, wait for memory.
bool Engine::Impl::admit_one(Request& request) {
  if (request.session != nullptr) {
    Session& session = *request.session;
    if (session.pending) {
      request.prompt.insert(request.prompt.begin(), *session.pending);
      session.pending.reset();
      request.took_pending = true;
    }
    request.cache = &session.cache;
  } else {
    if (live_kv_bytes() + cache_bytes(request.budget) > options_.kv_cache_bytes) return false;
    try {
      request.owned_cache = std::make_unique<KVCache>(make_cache(request.budget));
    } catch (const ResourceError&) {
      // The bytes are there but not in one piece: wait until a neighbour ends.
      if (running_.empty()) throw;
      return false;
    }
    request.cache = request.owned_cache.get();
  }
  request.output.reserve(static_cast<std::size_t>(request.max_new_tokens));
  if (uses_history(request.options.sampling)) {
    request.history.reserve(request.budget);
    if (request.session != nullptr) {
      for (const std::int32_t token : request.session->tokens) request.history.add_prompt(token);
    }
    for (const std::int32_t token : request.prompt) request.history.add_prompt(token);
  }
  return true;
}

// In order of arrival. Behind one that waits for memory only those may pass that need none: the
// next turns of sessions.
void Engine::Impl::admit() {
  bool memory_short = false;
  auto next = queue_.begin();
  while (next != queue_.end() && static_cast<std::int64_t>(running_.size()) < options_.max_batch) {
    Request& request = **next;
    try {
      if ((memory_short && request.session == nullptr) || !admit_one(request)) {
        memory_short = true;
        ++next;
        continue;
      }
      running_.push_back(std::move(*next));
    } catch (const Error& error) {
      fail(request, error.code(), error.what());
    }
    next = queue_.erase(next);
  }
}

void Engine::Impl::cancel(RequestId request) {
  const std::scoped_lock lock(cancel_mutex_);
  if (live_ids_.contains(request)) cancelled_ids_.insert(request);
}

void Engine::Impl::drop_cancelled() {
  std::set<RequestId> ids;
  {
    const std::scoped_lock lock(cancel_mutex_);
    ids.swap(cancelled_ids_);
  }
  if (ids.empty()) return;
  const auto drop = [&](const std::unique_ptr<Request>& request) {
    if (!ids.contains(request->id)) return false;
    end_request(*request, FinishReason::kCancelled);
    return true;
  };
  std::erase_if(queue_, drop);
  std::erase_if(running_, drop);
}

void Engine::Impl::expire_deadlines() {
  const auto now = Clock::now();
  std::erase_if(queue_, [&](const std::unique_ptr<Request>& request) {
    if (!request->deadline || *request->deadline > now) return false;
    fail(*request, ErrorCode::kState, "deadline passed while the request was queued");
    return true;
  });
}

Session& Engine::Impl::find_session(SessionId session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) {
    throw StateError("session " + std::to_string(session) + " is not open");
  }
  return *found->second;
}

SessionId Engine::Impl::open_session(std::int64_t token_budget) {
  const auto lock = enter();
  check_option("token_budget", token_budget >= 1 && token_budget <= options_.max_seq_len,
               std::to_string(token_budget),
               ("1.." + std::to_string(options_.max_seq_len)).c_str());
  check_fits_at_all(token_budget);
  if (live_kv_bytes() + cache_bytes(token_budget) > options_.kv_cache_bytes) {
    throw BusyError("KV cache of a session of " + std::to_string(token_budget) + " tokens: need " +
                    std::to_string(cache_bytes(token_budget)) + " bytes, free " +
                    std::to_string(options_.kv_cache_bytes - live_kv_bytes()));
  }
  const SessionId id = next_id_++;
  sessions_.emplace(id, std::make_unique<Session>(id, token_budget, make_cache(token_budget)));
  return id;
}

void Engine::Impl::close_session(SessionId session) {
  const auto lock = enter();
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  if (const std::optional<RequestId> active = found->second->active) {
    const auto uses = [&](const std::unique_ptr<Request>& request) {
      if (request->id != active) return false;
      end_request(*request, FinishReason::kCancelled);
      return true;
    };
    std::erase_if(queue_, uses);
    std::erase_if(running_, uses);
  }
  sessions_.erase(found);
}

std::int64_t Engine::Impl::session_length(SessionId session) const {
  const auto lock = enter();
  return const_cast<Impl*>(this)->find_session(session).length();
}

void Engine::Impl::rollback_session(SessionId session, std::int64_t count) {
  const auto lock = enter();
  Session& found = find_session(session);
  if (found.active) {
    throw StateError("session " + std::to_string(session) + " has a request running");
  }
  check_option("count", count >= 0 && count <= found.length(), std::to_string(count),
               "at most the session's length");
  if (count == 0) return;
  found.cache.rollback(count - (found.pending ? 1 : 0));
  found.pending.reset();
  found.tokens.resize(static_cast<std::size_t>(found.cache.length()));
}

}  // namespace moa_rt
