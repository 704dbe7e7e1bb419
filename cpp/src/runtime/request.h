// A request and a session, as the engine keeps them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "cache/kv_cache.h"
#include "moa_rt/engine.h"
#include "runtime/sampler.h"
#include "runtime/stop_rules.h"

namespace moa_rt {

// A conversation: a cache that outlives its requests.
struct Session {
  Session(SessionId session_id, std::int64_t token_budget, KVCache kv_cache)
      : id(session_id), budget(token_budget), cache(std::move(kv_cache)) {}

  SessionId id;
  std::int64_t budget;  // N, tokens
  KVCache cache;
  std::vector<std::int32_t> tokens;     // what the cache has seen, for penalties
  std::optional<std::int32_t> pending;  // sampled last, not in the cache yet
  std::optional<RequestId> active;      // the request that uses it now

  std::int64_t length() const { return cache.length() + (pending ? 1 : 0); }
};

// Where the events of a request go; nothing: to the caller of step().
using EventSink = std::function<void(const TokenEvent&)>;

struct Request {
  RequestId id = 0;
  RequestOptions options;
  EventSink sink;
  std::optional<std::chrono::steady_clock::time_point> deadline;

  std::vector<std::int32_t> prompt;  // what is to be appended before the first new token
  std::int64_t prefilled = 0;        // of them, already in the cache
  std::int64_t budget = 0;           // N, tokens
  std::int64_t max_new_tokens = 0;   // resolved
  std::uint64_t seed = 0;            // resolved

  std::unique_ptr<KVCache> owned_cache;  // none for a session's request
  Session* session = nullptr;
  bool took_pending = false;  // prompt[0] was the session's pending token
  KVCache* cache = nullptr;   // either of the two, once admitted

  std::vector<std::int32_t> output;
  TokenHistory history;
  StopRules stops;
  std::optional<IncrementalDetokenizer> detokenizer;
  bool finished = false;

  // In the decode loop: its row, -1 without one, whether the next step runs it, and steps launched
  // that have not been collected.
  std::int64_t row = -1;
  bool seated = false;
  std::int64_t pending_steps = 0;

  bool prefilling() const { return prefilled < static_cast<std::int64_t>(prompt.size()); }
  std::int64_t prompt_left() const { return static_cast<std::int64_t>(prompt.size()) - prefilled; }
};

}  // namespace moa_rt
