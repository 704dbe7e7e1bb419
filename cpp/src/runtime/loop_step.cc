// A decode step through the backend's decode loop: launch the next step, then read the one before.
//
// A request's row runs ahead of what the host has seen by one step. What the host decides a step
// late, the end of a request, makes that step one too many: its token is dropped and what it wrote
// to a session's cache is taken back, so that nothing of it can be seen.
#include <algorithm>
#include <exception>

#include "moa_rt/error.h"
#include "runtime/engine_impl.h"

namespace moa_rt {
namespace {

std::int64_t power_of_two(std::int64_t rows) {
  std::int64_t power = 1;
  while (power < rows) power *= 2;
  return power;
}

bool none_live(const std::vector<Request*>& rows) {
  return std::ranges::all_of(rows, [](const Request* request) { return request == nullptr; });
}

TokenLogprob logprob_of(const DecodeResult& result, std::int64_t count) {
  TokenLogprob logprob{.token = result.token, .logprob = result.logprob, .top = {}};
  const auto most = std::min(result.top.size(), static_cast<std::size_t>(count));
  logprob.top.reserve(most);
  for (const TopToken& top : result.top.first(most)) {
    logprob.top.emplace_back(top.token, top.logprob);
  }
  return logprob;
}

}  // namespace

void Engine::Impl::open_loop(std::int64_t valid_vocab) {
  loop_ = backend_->decode_loop(
      {.logits =
           [this](std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices) {
             std::vector<std::int64_t> rows;
             for (const SequenceSlice& slice : slices) {
               rows.push_back(slice.row);
             }
             decoder_->forward({tokens, slices}, activations_, {});
             return decoder_->logits(rows, activations_);
           },
       .valid_vocab = valid_vocab});
  if (!loop_) return;
  const auto rows = static_cast<std::size_t>(options_.max_batch);
  loop_rows_.resize(rows, nullptr);
  for (std::vector<Request*>& launched : loop_launched_) launched.reserve(rows);
}

// False: interrupted.
bool Engine::Impl::step_loop() {
  batch_.clear();
  tokens_.clear();
  slices_.clear();
  for (const auto& request : running_) {
    if (!request->prefilling()) batch_.push_back(request.get());
  }
  if (interrupted_ && interrupted_()) return false;
  forget_dead_steps();
  if (loop_->in_flight() == 0) launch_loop();
  launch_loop();
  collect_loop();
  forget_dead_steps();
  return true;
}

// What follows the prompts that are done: each takes the row that it will decode in.
void Engine::Impl::sample_in_loop(const Tensor& logits) {
  first_rows_.clear();
  for (Request* const request : sampled_) {
    if (request->max_new_tokens > 0) seat(*request);
    first_rows_.push_back(request->row);
  }
  const std::span<const DecodeResult> results = loop_->sample_first(first_rows_, logits);
  for (std::size_t i = 0; i < sampled_.size(); ++i) {
    if (first_rows_[i] < 0) {
      end_request(*sampled_[i], FinishReason::kLength);
    } else {
      accept_result(*sampled_[i], results[i]);
    }
  }
}

// In the lowest free row.
void Engine::Impl::seat(Request& request) {
  const auto free = std::ranges::find(loop_rows_, nullptr);
  if (free == loop_rows_.end()) throw InternalError("decode loop: no free row");
  const std::int64_t row = free - loop_rows_.begin();
  const RequestOptions& options = request.options;
  loop_->join(row, {.cache = request.cache,
                    .token = request.output.empty() ? 0 : request.output.back(),
                    .index = static_cast<std::int64_t>(request.output.size()),
                    .seed = request.seed,
                    .sampling = plan_sampling(options.sampling),
                    .logit_bias = options.sampling.logit_bias,
                    .history = request.history.entries(),
                    .stop_ids = request.stops.token_ids(),
                    .min_new_tokens = options.min_new_tokens,
                    .logprobs = options.logprobs,
                    .can_take_back = request.session != nullptr});
  *free = &request;
  request.row = row;
  request.seated = true;
}

// Launches a step unless every request's last token is on its way already.
void Engine::Impl::launch_loop() {
  std::int64_t seated = 0;
  for (Request* const request : loop_rows_) {
    if (request == nullptr || !request->seated) continue;
    if (static_cast<std::int64_t>(request->output.size()) + request->pending_steps <
        request->max_new_tokens) {
      ++seated;
      continue;
    }
    loop_->leave(request->row);
    request->seated = false;
  }
  if (seated == 0) return;
  close_gaps(seated);
  std::vector<Request*>& launched = loop_launched_[static_cast<std::size_t>(
      loop_->in_flight() == 0 ? loop_oldest_ : 1 - loop_oldest_)];
  launched.clear();
  for (Request* const request : loop_rows_) {
    launched.push_back(request != nullptr && request->seated ? request : nullptr);
  }
  loop_->launch();
  for (Request* const request : launched) {
    if (request != nullptr) ++request->pending_steps;
  }
}

// Moves rows down until a step is no wider than its requests need.
void Engine::Impl::close_gaps(std::int64_t seated) {
  for (auto last = static_cast<std::int64_t>(loop_rows_.size()) - 1; last >= 0; --last) {
    Request* const request = loop_rows_[static_cast<std::size_t>(last)];
    if (request == nullptr || !request->seated) continue;
    if (power_of_two(last + 1) == power_of_two(seated)) return;
    const auto free = std::ranges::find(loop_rows_, nullptr);
    const std::int64_t row = free - loop_rows_.begin();
    if (row >= last) return;
    loop_->move(last, row);
    *free = request;
    request->row = row;
    loop_rows_[static_cast<std::size_t>(last)] = nullptr;
  }
}

void Engine::Impl::collect_loop() {
  if (loop_->in_flight() == 0) return;
  const std::span<const DecodeResult> results = loop_->collect();
  const std::vector<Request*>& launched = loop_launched_[static_cast<std::size_t>(loop_oldest_)];
  loop_oldest_ = 1 - loop_oldest_;
  for (std::size_t row = 0; row < results.size(); ++row) {
    Request* const request = launched[row];
    if (request == nullptr) continue;
    --request->pending_steps;
    tokens_.push_back(results[row].token);
    slices_.push_back({.cache = request->cache, .count = 1, .position = request->cache->length()});
    request->cache->advance(1);
    accept_result(*request, results[row]);
  }
}

void Engine::Impl::accept_result(Request& request, const DecodeResult& result) {
  if (result.fault != LogitFault::kNone) {
    try {
      fail_logits(result.fault, result.faulty);
    } catch (const NumericError& error) {
      fail(request, error.code(), error.what());
    }
    return;
  }
  take_token(request, result.token);
  std::optional<TokenLogprob> logprob;
  if (request.options.logprobs >= 0) logprob = logprob_of(result, request.options.logprobs);
  deliver_token(request, std::move(logprob));
}

// Steps of requests that have all ended since.
void Engine::Impl::forget_dead_steps() {
  while (loop_->in_flight() > 0 &&
         none_live(loop_launched_[static_cast<std::size_t>(loop_oldest_)])) {
    (void)loop_->collect();
    loop_oldest_ = 1 - loop_oldest_;
  }
}

// The cache is as the collected steps have left it afterwards, and the device is done with it.
void Engine::Impl::leave_loop(Request& request) {
  if (request.row < 0) return;
  if (request.pending_steps > 0) {
    if (request.session != nullptr) {
      loop_->take_back(request.row, *request.cache, request.cache->length());
    }
    loop_->wait();
  }
  if (request.seated) loop_->leave(request.row);
  forget_rows(&request);
}

// leave_loop() after a failure: a lost device has nothing to say to that.
void Engine::Impl::unseat(Request& request) noexcept {
  try {
    leave_loop(request);
  } catch (const std::exception&) {
    forget_rows(&request);
  }
}

void Engine::Impl::forget_rows(Request* request) {
  std::ranges::replace(loop_rows_, request, nullptr);
  for (std::vector<Request*>& launched : loop_launched_) {
    std::ranges::replace(launched, request, nullptr);
  }
  request->row = -1;
  request->seated = false;
  request->pending_steps = 0;
}

// After a failed step: nobody is in the loop any more. A lost device has nothing to say to that.
void Engine::Impl::empty_loop() noexcept {
  try {
    loop_->wait();
    while (loop_->in_flight() > 0) {
      (void)loop_->collect();
      loop_oldest_ = 1 - loop_oldest_;
    }
    for (Request* const request : loop_rows_) {
      if (request != nullptr && request->seated) loop_->leave(request->row);
    }
  } catch (const std::exception&) {
  }
  for (Request* const request : batch_) forget_rows(request);
}

}  // namespace moa_rt
