#include "runtime/engine_impl.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "io/file.h"
#include "moa_rt/error.h"
#include "model/rope_table.h"
#include "runtime/callback_scope.h"
#include "runtime/loading.h"

namespace moa_rt {

namespace {

// Blocks of memory beside a layer's weights: caches that live at the same time, and scratch.
constexpr std::int64_t kMaxBlocks = 8192;

}  // namespace

Engine::Impl::Impl(const std::string& model_dir, const EngineOptions& options) : owner_(getpid()) {
  LoadPlan plan = prepare_load(model_dir, options);
  const std::int64_t free_bytes = plan.backend->free_bytes();
  check_memory(plan, free_bytes);

  config_ = plan.config;
  options_ = plan.options;
  dtype_ = plan.dtype;
  prediction_ = plan.memory;
  backend_ = std::move(plan.backend);
  if (options_.kv_cache_bytes == 0) {
    options_.kv_cache_bytes =
        std::min(free_bytes, prediction_.total(options_.max_batch)) - prediction_.total(0);
  }
  tokenizer_ = std::move(plan.tokenizer);
  check_tokenizer(model_dir);

  // Everything of the model's, and room for some thousand caches.
  backend_->set_aside(prediction_.total(0) - prediction_.runtime + options_.kv_cache_bytes,
                      kMaxBlocks + 16 * config_.num_hidden_layers);
  backend_->reserve(plan.backend_limits());
  activations_ =
      Activations::allocate(backend_->allocator(), config_, plan.step_rows(), plan.logit_rows());
  RopeTable rope = make_rope_table(config_, options_.max_seq_len, *backend_);
  decoder_ = std::make_unique<Decoder>(config_, *backend_, plan.checkpoint->load(*backend_, dtype_),
                                       std::move(rope));
  const std::int64_t valid_vocab =
      tokenizer_ ? std::min(tokenizer_->vocab_size(), config_.vocab_size) : config_.vocab_size;
  sampler_ = std::make_unique<Sampler>(config_.vocab_size, valid_vocab);
  open_loop(valid_vocab);

  const auto batch = static_cast<std::size_t>(options_.max_batch);
  batch_.reserve(batch);
  slices_.reserve(batch);
  sampled_.reserve(batch);
  sampled_rows_.reserve(batch);
  first_rows_.reserve(batch);
  running_.reserve(batch);
  tokens_.reserve(static_cast<std::size_t>(plan.step_rows()));
}

Engine::Impl::~Impl() { close(); }

void Engine::Impl::check_tokenizer(const std::string& model_dir) const {
  if (!tokenizer_ || tokenizer_->vocab_size() <= config_.vocab_size) return;
  throw MismatchError(join_path(model_dir, "tokenizer.json") + ": vocabulary: got ids up to " +
                      std::to_string(tokenizer_->vocab_size() - 1) + ", want below the " +
                      std::to_string(config_.vocab_size) + " rows of the embedding");
}

const Tokenizer& Engine::Impl::tokenizer() const {
  if (!tokenizer_) throw StateError("this model directory has no tokenizer.json");
  return *tokenizer_;
}

void Engine::Impl::check_owner() const {
  if (getpid() == owner_) return;
  throw StateError("engine was created in pid " + std::to_string(owner_) +
                   " and cannot be used in its forked child " + std::to_string(getpid()));
}

void Engine::Impl::check_usable() const {
  check_owner();
  if (closed_.load()) throw StateError("engine is closed");
  const std::thread::id self = std::this_thread::get_id();
  if (callback_thread_.load() == self || interrupt_thread_.load() == self) {
    throw StateError("engine called from one of its own callbacks");
  }
}

std::unique_lock<FairMutex> Engine::Impl::enter() const {
  check_usable();
  std::unique_lock<FairMutex> lock(mutex_);
  if (closed_.load()) throw StateError("engine is closed");
  backend_->check_alive();
  return lock;
}

std::unique_lock<FairMutex> Engine::Impl::lock_unless_forked() const {
  std::unique_lock<FairMutex> lock(mutex_, std::defer_lock);
  if (getpid() == owner_) lock.lock();
  return lock;
}

void Engine::Impl::close() {
  if (closed_.load()) return;
  if (callback_thread_.load() == std::this_thread::get_id()) {
    close_requested_.store(true);  // carried out when the callback has returned
    return;
  }
  if (interrupt_thread_.load() == std::this_thread::get_id()) {
    throw StateError("engine closed from the function that may interrupt it");
  }
  const auto lock = lock_unless_forked();
  if (closed_.exchange(true)) return;
  batch_.clear();
  for (const auto& request : running_) batch_.push_back(request.get());
  if (loop_) empty_loop();  // before its requests end, and without an error from a lost device
  for (const auto& request : queue_) end_request(*request, FinishReason::kCancelled);
  for (const auto& request : running_) end_request(*request, FinishReason::kCancelled);
  queue_.clear();
  running_.clear();
  sessions_.clear();
  loop_.reset();
  decoder_.reset();
  activations_ = {};
  sampler_.reset();
  backend_.reset();
}

bool Engine::Impl::has_work() const {
  const auto lock = enter();
  return !queue_.empty() || !running_.empty() || !events_.empty();
}

void Engine::Impl::set_interrupt(std::function<bool()> interrupted) {
  const auto lock = enter();
  if (!interrupted) {
    interrupted_ = nullptr;
    return;
  }
  interrupted_ = [this, ask = std::move(interrupted)] {
    const CallbackScope scope(interrupt_thread_);
    return ask();
  };
}

MemoryReport Engine::Impl::memory() const {
  const auto lock = enter();
  return {.weights = prediction_.weights,
          .kv_cache = live_kv_bytes(),
          .kv_cache_peak = kv_peak_bytes_,
          .kv_cache_limit = options_.kv_cache_bytes,
          .scratch = prediction_.scratch,
          .runtime = prediction_.runtime};
}

EngineStats Engine::Impl::stats() const {
  const auto lock = enter();
  EngineStats stats = stats_;
  stats.allocations = backend_->allocator().calls();
  if (loop_) {
    const DecodeCounters counters = loop_->counters();
    stats.loop_steps = counters.steps;
    stats.graph_builds = counters.builds;
    stats.graph_nodes = counters.nodes;
    stats.device_waits = counters.waits;
  }
  return stats;
}

}  // namespace moa_rt
