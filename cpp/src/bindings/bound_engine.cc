#include "bindings/bound_engine.h"

#include <unistd.h>

#include <utility>

#include "bindings/arguments.h"
#include "moa_rt/error.h"

namespace moa_rt::bindings {
namespace {

class ClearOnExit {
 public:
  explicit ClearOnExit(std::atomic<bool>& flag) : flag_(flag) {}
  ~ClearOnExit() { flag_.store(false); }
  ClearOnExit(const ClearOnExit&) = delete;
  ClearOnExit& operator=(const ClearOnExit&) = delete;

 private:
  std::atomic<bool>& flag_;
};

}  // namespace

BoundEngine::BoundEngine(const std::string& model_dir, const EngineOptions& options) {
  {
    const py::gil_scoped_release release;
    engine_ = std::make_unique<Engine>(model_dir, options);
  }
  engine_->set_interrupt([this] { return interrupted(); });
}

BoundEngine::~BoundEngine() = default;

void BoundEngine::check_enter() const {
  if (handler_thread_.load() == std::this_thread::get_id()) {
    throw StateError("engine called from a signal handler that interrupted it");
  }
  if (ending_.load()) throw StateError("engine is closed: the interpreter is shutting down");
}

void BoundEngine::park_if_ending() const {
  while (ending_.load()) std::this_thread::sleep_for(std::chrono::hours(1));
}

bool BoundEngine::interrupted() {
  if (ending_.load() || callback_stop_.load()) return true;
  const Clock::time_point now = Clock::now();
  if (now - last_poll_ < kPollInterval) return false;
  last_poll_ = now;
  const py::gil_scoped_acquire gil;
  return run_signal_handlers() || close_asked_.load();
}

bool BoundEngine::run_signal_handlers() {
  handler_thread_.store(std::this_thread::get_id());
  const bool raised = PyErr_CheckSignals() != 0;
  handler_thread_.store(std::thread::id());
  if (raised) {
    signal_error_.emplace();
    signal_thread_ = std::this_thread::get_id();
  }
  return raised;
}

void BoundEngine::finish_call(const std::exception_ptr& failure) {
  if (close_asked_.exchange(false)) close();
  if (signal_error_ && signal_thread_ == std::this_thread::get_id()) {
    throw *std::exchange(signal_error_, std::nullopt);
  }
  if (failure) std::rethrow_exception(failure);
}

void BoundEngine::wait_for_turn(std::unique_lock<std::timed_mutex>& turn) {
  check_enter();
  if (turn_owner_.load() == std::this_thread::get_id()) {
    throw StateError("engine called from one of its own callbacks");
  }
  if (turn.try_lock()) return;
  bool mine = false;
  while (!mine) {
    {
      const py::gil_scoped_release release;
      mine = turn.try_lock_for(kPollInterval);
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    check_enter();
  }
}

std::vector<Completion> BoundEngine::generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                              const std::vector<RequestOptions>& options,
                                              const py::object& on_token) {
  KeptError kept;
  Engine::TokenCallback callback;
  if (!on_token.is_none()) {
    callback = [&](const TokenEvent& event) { return call_back(on_token, event, kept); };
  }
  std::vector<Completion> completions;
  std::exception_ptr failure;
  try {
    completions = work_alone([&] {
      const ClearOnExit clear(callback_stop_);
      return engine_->generate(prompts, options, callback);
    });
  } catch (...) {
    failure = std::current_exception();
  }
  if (kept) throw *std::exchange(kept, std::nullopt);
  if (failure) std::rethrow_exception(failure);
  return completions;
}

bool BoundEngine::call_back(const py::object& on_token, const TokenEvent& event, KeptError& kept) {
  park_if_ending();
  const py::gil_scoped_acquire gil;
  const auto keep = [&](const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) callback_stop_.store(true);
    if (!kept) kept.emplace(error);
  };
  try {
    const py::object answer = on_token(event);
    if (answer.is_none() || answer.is(py::bool_(true))) return true;
    if (answer.is(py::bool_(false))) return false;
    refuse("on_token", answer, "None, True, or False to cancel the request");
  } catch (const Error& error) {
    py::set_error(py::module_::import("moa_rt.errors").attr("ArgumentError"), error.what());
    keep(py::error_already_set());
  } catch (const py::error_already_set& error) {
    keep(error);
  }
  return false;
}

void BoundEngine::close() {
  if (handler_thread_.load() == std::this_thread::get_id()) {
    close_asked_.store(true);  // carried out when the interrupted call returns
    return;
  }
  const py::gil_scoped_release release;
  engine_->close();
}

void BoundEngine::shutdown() {
  if (engine_->closed() || ending_.exchange(true)) return;
  constexpr auto kPatience = std::chrono::seconds(2);  // a callback may sleep for ever
  const py::gil_scoped_release release;
  const Clock::time_point limit = Clock::now() + kPatience;
  while (visitors_.load() > 0 && Clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (visitors_.load() == 0) engine_->close();
}

}  // namespace moa_rt::bindings
