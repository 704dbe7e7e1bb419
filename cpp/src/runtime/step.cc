// One step: a prefill chunk or a decode step over all running sequences, then sampling.
#include <algorithm>
#include <chrono>
#include <utility>

#include "moa_rt/error.h"
#include "runtime/engine_impl.h"
#include "runtime/logits.h"

namespace moa_rt {
namespace {

// Bytes of the filled slots: what one decode step reads of a sequence.
std::int64_t filled_bytes(const KVCache& cache) {
  const CacheLayout& layout = cache.layout();
  std::int64_t slots = 0;
  for (std::int64_t layer = 0; layer < layout.num_layers(); ++layer) {
    for (std::int64_t head = 0; head < layout.num_kv_heads(); ++head) {
      slots += filled_slots(layout.head_span(layer, head), cache.length());
    }
  }
  return slots * 2 * layout.head_dim() * size_of(layout.dtype());
}

TokenEvent failure_event(ErrorCode code, const std::string& message) {
  TokenEvent event;
  event.finish = FinishReason::kError;
  event.error = message;
  event.error_code = code;
  return event;
}

TokenEvent cancelled_event() {
  TokenEvent event;
  event.finish = FinishReason::kCancelled;
  return event;
}

class Interrupted final : public StateError {
 public:
  Interrupted() : StateError("interrupted; the requests of this step were cancelled") {}
};

}  // namespace

void Engine::Impl::throw_stalled() {
  throw BusyError("open sessions hold the memory that the queued requests wait for");
}

std::vector<TokenEvent> Engine::Impl::step() {
  const auto lock = enter();
  if (!step_locked() && events_.empty()) throw_stalled();
  return std::exchange(events_, {});
}

bool Engine::Impl::step_locked() {
  const std::size_t before = queue_.size() + running_.size();
  drop_cancelled();
  expire_deadlines();
  admit();
  if (running_.empty()) return queue_.empty() || queue_.size() < before;

  const auto prefilling = [](const auto& request) { return request->prefilling(); };
  const bool any_prefill = std::any_of(running_.begin(), running_.end(), prefilling);
  const bool any_decode = !std::all_of(running_.begin(), running_.end(), prefilling);
  // Prompts and answers take turns, so that a long prompt does not silence everybody else.
  const bool prefill = any_prefill && !(any_decode && last_was_prefill_);
  last_was_prefill_ = prefill;
  run_batch(prefill);
  return true;
}

// Picks rows: of prompts, in order of arrival, whole chunks as long as they fit; of answers, one
// each. A prompt is cut where its own chunks end and never to fill a step: so its neighbours do not
// change its rounding. The first in line always fits.
void Engine::Impl::collect_slices(bool prefill) {
  batch_.clear();
  slices_.clear();
  tokens_.clear();
  for (const auto& request : running_) {
    if (request->prefilling() != prefill) continue;
    const auto row = static_cast<std::int64_t>(tokens_.size());
    std::int64_t count = 1;
    if (prefill) {
      count = std::min(request->prompt_left(), options_.prefill_chunk);
      if (row + count > activations_.hidden.dim(0)) continue;
      const auto begin = request->prompt.begin() + request->prefilled;
      tokens_.insert(tokens_.end(), begin, begin + count);
    } else {
      tokens_.push_back(request->output.back());
    }
    batch_.push_back(request.get());
    slices_.push_back({request->cache, row, count, request->cache->length()});
  }
}

void Engine::Impl::run_batch(bool prefill) {
  const auto start = std::chrono::steady_clock::now();
  const bool looped = !prefill && loop_ != nullptr;
  try {
    if (looped) {
      if (!step_loop()) throw Interrupted();
    } else {
      collect_slices(prefill);
      compute_batch(prefill);
    }
  } catch (const Interrupted&) {
    abandon_batch(cancelled_event(), looped);
    throw;
  } catch (const Error& error) {
    abandon_batch(failure_event(error.code(), error.what()), looped);
    throw;
  } catch (const std::exception& error) {
    abandon_batch(failure_event(ErrorCode::kInternal, error.what()), looped);
    throw;
  } catch (...) {
    abandon_batch(failure_event(ErrorCode::kInternal, "unknown exception"), looped);
    throw;
  }

  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  const auto rows = static_cast<std::int64_t>(tokens_.size());
  ++stats_.steps;
  if (prefill) {
    stats_.prefill_tokens += rows;
    stats_.prefill_seconds += elapsed.count();
  } else {
    stats_.decode_tokens += rows;
    stats_.decode_seconds += elapsed.count();
    stats_.decode_bytes += decoder_->bytes_per_step();
    for (const SequenceSlice& slice : slices_) stats_.decode_bytes += filled_bytes(*slice.cache);
  }
  remove_finished();
}

void Engine::Impl::compute_batch(bool prefill) {
  if (!decoder_->forward({tokens_, slices_}, activations_, interrupted_)) throw Interrupted();
  sampled_.clear();
  sampled_rows_.clear();
  for (std::size_t i = 0; i < batch_.size(); ++i) {
    Request& request = *batch_[i];
    const SequenceSlice& slice = slices_[i];
    request.cache->advance(slice.count);
    if (prefill) request.prefilled += slice.count;
    if (request.prefilling()) continue;
    sampled_.push_back(&request);
    sampled_rows_.push_back(slice.row + slice.count - 1);
  }
  sample_rows();
}

// An abandoned step leaves caches that hold some layers of the new tokens and not others, or tokens
// whose successor was never sampled: nothing that used them may go on.
void Engine::Impl::abandon_batch(const TokenEvent& ending, bool looped) {
  if (looped) empty_loop();
  for (Request* request : batch_) {
    if (request->finished) continue;
    if (request->row >= 0) unseat(*request);
    const Session* session = request->session;
    finish(*request, ending);
    if (session != nullptr) sessions_.erase(session->id);
  }
  remove_finished();
}

void Engine::Impl::sample_rows() {
  if (sampled_.empty()) return;
  // A prompt without new tokens wants no logits, but nothing is lost by computing them with the
  // rest.
  const Tensor logits = decoder_->logits(sampled_rows_, activations_);
  if (loop_) {
    sample_in_loop(logits);
  } else {
    sample_on_host(logits);
  }
}

void Engine::Impl::sample_on_host(const Tensor& device_logits) {
  const float* logits = backend_->host_floats(device_logits);
  const auto vocab = static_cast<std::size_t>(config_.vocab_size);
  for (std::size_t i = 0; i < sampled_.size(); ++i) {
    Request& request = *sampled_[i];
    if (request.max_new_tokens == 0) {
      end_request(request, FinishReason::kLength);
      continue;
    }
    try {
      accept_token(request, {logits + i * vocab, vocab});
    } catch (const NumericError& error) {
      fail(request, error.code(), error.what());
    }
  }
}

void Engine::Impl::accept_token(Request& request, std::span<const float> logits) {
  const auto index = static_cast<std::int64_t>(request.output.size());
  const bool stop_allowed = index + 1 >= request.options.min_new_tokens;
  const std::int32_t token =
      sampler_->sample(logits, request.options.sampling, request.history, request.seed, index,
                       stop_allowed ? std::span<const std::int64_t>() : request.stops.token_ids());
  take_token(request, token);
  std::optional<TokenLogprob> logprob;
  if (request.options.logprobs >= 0) {
    logprob = token_logprob(logits, token, request.options.logprobs);
  }
  deliver_token(request, std::move(logprob));
}

void Engine::Impl::take_token(Request& request, std::int32_t token) {
  request.output.push_back(token);
  if (uses_history(request.options.sampling)) request.history.add_output(token);
}

// What the token taken last means to the request and whoever listens to it.
void Engine::Impl::deliver_token(Request& request, std::optional<TokenLogprob> logprob) {
  const std::int32_t token = request.output.back();
  const auto index = static_cast<std::int64_t>(request.output.size()) - 1;
  const bool stop_allowed = index + 1 >= request.options.min_new_tokens;
  TokenEvent event;
  event.token = token;
  event.logprob = std::move(logprob);
  const bool stopped = stop_allowed && request.stops.is_stop_token(token);
  if (request.detokenizer && !stopped) {
    event.text = request.stops.push(request.detokenizer->push(token));
  }
  if (stopped || request.stops.matched()) {
    event.finish = FinishReason::kStop;
  } else if (index + 1 == request.max_new_tokens) {
    event.finish = FinishReason::kLength;
  }
  if (event.finish == FinishReason::kNone) {
    emit(request, std::move(event));
  } else {
    finish(request, std::move(event));
  }
}

// Leaves the session as the request has made it. All but the last new token are in its cache; that
// one is too if the step that appended it found no successor.
void Engine::Impl::hand_back(const Request& request, Session& session) {
  const std::vector<std::int32_t>& prompt = request.prompt;
  const std::vector<std::int32_t>& output = request.output;
  session.active.reset();
  if (request.took_pending && request.prefilled == 0) session.pending = prompt.front();
  session.tokens.insert(session.tokens.end(), prompt.begin(), prompt.begin() + request.prefilled);
  const auto in_cache = session.cache.length() - static_cast<std::int64_t>(session.tokens.size());
  session.tokens.insert(session.tokens.end(), output.begin(), output.begin() + in_cache);
  if (in_cache < static_cast<std::int64_t>(output.size())) session.pending = output.back();
}

// Releases the text held back, hands the session on, and marks the request for removal.
void Engine::Impl::finish(Request& request, TokenEvent event) {
  if (request.detokenizer && !request.stops.matched()) {
    event.text += request.stops.push(request.detokenizer->finish());
    event.text += request.stops.finish();
  }
  leave_loop(request);
  if (request.session != nullptr) hand_back(request, *request.session);
  request.finished = true;
  {
    const std::scoped_lock lock(cancel_mutex_);
    live_ids_.erase(request.id);
  }
  emit(request, std::move(event));
}

void Engine::Impl::end_request(Request& request, FinishReason reason) {
  TokenEvent event;
  event.finish = reason;
  finish(request, std::move(event));
}

void Engine::Impl::fail(Request& request, ErrorCode code, const std::string& message) {
  finish(request, failure_event(code, message));
}

void Engine::Impl::remove_finished() {
  std::erase_if(running_, [](const auto& request) { return request->finished; });
}

void Engine::Impl::emit(const Request& request, TokenEvent event) {
  event.request = request.id;
  if (request.sink) {
    request.sink(event);
  } else {
    events_.push_back(std::move(event));
  }
}

}  // namespace moa_rt
