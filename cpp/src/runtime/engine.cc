#include "moa_rt/engine.h"

#include <utility>

#include "runtime/engine_impl.h"

namespace moa_rt {

const char* finish_reason_name(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
    case FinishReason::kNone:
      break;
  }
  return "";
}

Engine::Engine(const std::string& model_dir, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(model_dir, options)) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

RequestId Engine::submit(const std::vector<std::int32_t>& prompt, const RequestOptions& options) {
  return impl_->submit(prompt, options);
}
std::vector<TokenEvent> Engine::step() { return impl_->step(); }
void Engine::cancel(RequestId request) { impl_->cancel(request); }
bool Engine::has_work() const { return impl_->has_work(); }

SessionId Engine::open_session(std::int64_t token_budget) {
  return impl_->open_session(token_budget);
}
void Engine::close_session(SessionId session) { impl_->close_session(session); }
std::int64_t Engine::session_length(SessionId session) const {
  return impl_->session_length(session);
}
void Engine::rollback_session(SessionId session, std::int64_t count) {
  impl_->rollback_session(session, count);
}

std::vector<Completion> Engine::generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                         const RequestOptions& options,
                                         const TokenCallback& on_token) {
  return impl_->generate(prompts, std::vector<RequestOptions>(prompts.size(), options), on_token);
}

std::vector<Completion> Engine::generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                         const std::vector<RequestOptions>& options,
                                         const TokenCallback& on_token) {
  return impl_->generate(prompts, options, on_token);
}

std::vector<float> Engine::score(const std::vector<std::int32_t>& token_ids, std::int64_t budget) {
  return impl_->score(token_ids, budget);
}

std::vector<float> Engine::logits(const std::vector<std::int32_t>& token_ids, std::int64_t budget) {
  return impl_->logits(token_ids, budget);
}

Trace Engine::trace(const std::vector<std::int32_t>& token_ids, const TraceOptions& options) {
  return impl_->trace(token_ids, options);
}
void Engine::set_interrupt(std::function<bool()> interrupted) {
  impl_->set_interrupt(std::move(interrupted));
}
void Engine::close() { impl_->close(); }
bool Engine::closed() const { return impl_->closed(); }
const ModelConfig& Engine::config() const { return impl_->config(); }
const AttentionPlan& Engine::plan() const { return impl_->plan(); }
const Tokenizer& Engine::tokenizer() const { return impl_->tokenizer(); }
const EngineOptions& Engine::options() const { return impl_->options(); }
MemoryReport Engine::memory() const { return impl_->memory(); }
EngineStats Engine::stats() const { return impl_->stats(); }

}  // namespace moa_rt
