// An Engine as Python holds it: the interpreter's lock is released while it works, signals are
// answered between layers, callbacks may raise, and the interpreter may end while it runs.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "moa_rt/engine.h"

namespace moa_rt::bindings {

namespace py = pybind11;

class BoundEngine {
 public:
  BoundEngine(const std::string& model_dir, const EngineOptions& options);
  ~BoundEngine();
  BoundEngine(const BoundEngine&) = delete;
  BoundEngine& operator=(const BoundEngine&) = delete;

  Engine& engine() { return *engine_; }
  const Engine& engine() const { return *engine_; }

  // Runs `body` without the GIL. Throws what it threw, or, if a signal handler raised meanwhile,
  // what that raised.
  template <typename Body>
  std::invoke_result_t<Body> work(Body&& body);
  // The same for calls that take long: they queue up here, where a signal still reaches them.
  template <typename Body>
  std::invoke_result_t<Body> work_alone(Body&& body);

  // Engine::generate with a Python callback, which may raise (G9): an Exception ends its request
  // and is raised again once the others are done; anything else (KeyboardInterrupt) ends the call.
  std::vector<Completion> generate(const std::vector<std::vector<std::int32_t>>& prompts,
                                   const std::vector<RequestOptions>& options,
                                   const py::object& on_token);

  void close();
  // Called while the interpreter ends: stops whoever works, for good, and frees everything.
  void shutdown();

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kPollInterval = std::chrono::milliseconds(50);

  // Counts the threads inside native code; the last thing before the GIL is taken again.
  class Visit {
   public:
    explicit Visit(BoundEngine& owner) : owner_(owner) { ++owner_.visitors_; }
    ~Visit() { --owner_.visitors_; }
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;

   private:
    BoundEngine& owner_;
  };

  void check_enter() const;
  // From the engine, between layers, without the GIL: whether to give up.
  bool interrupted();
  // Handlers of pending signals; keeps what they raise. Needs the GIL. True if one raised.
  bool run_signal_handlers();
  void finish_call(const std::exception_ptr& failure);
  void wait_for_turn(std::unique_lock<std::timed_mutex>& turn);
  using KeptError = std::optional<py::error_already_set>;
  // Calls on_token; keeps the first thing it raises. Whether the request goes on.
  bool call_back(const py::object& on_token, const TokenEvent& event, KeptError& kept);
  // A thread may not return to an interpreter that ends: it would be unwound through our frames.
  void park_if_ending() const;

  std::unique_ptr<Engine> engine_;
  std::timed_mutex turn_;  // one long call at a time
  std::atomic<std::thread::id> turn_owner_{};
  std::atomic<std::thread::id> handler_thread_{};  // runs Python signal handlers now
  std::atomic<bool> ending_{false};
  std::atomic<bool> close_asked_{false};  // by a signal handler
  std::atomic<int> visitors_{0};
  Clock::time_point last_poll_{};  // of the stepping thread; the engine's lock orders its uses
  // Raised by a signal handler on the main thread, until the call there returns.
  std::optional<py::error_already_set> signal_error_;
  std::thread::id signal_thread_;           // the thread to raise it in
  std::atomic<bool> callback_stop_{false};  // a callback of the generate() in progress says so
};

template <typename Body>
std::invoke_result_t<Body> BoundEngine::work(Body&& body) {
  using Result = std::invoke_result_t<Body>;
  check_enter();
  std::exception_ptr failure;
  std::conditional_t<std::is_void_v<Result>, bool, std::optional<Result>> result{};
  PyThreadState* state = PyEval_SaveThread();
  {
    const Visit visit(*this);
    try {
      if constexpr (std::is_void_v<Result>) {
        body();
      } else {
        result.emplace(body());
      }
    } catch (...) {
      failure = std::current_exception();
    }
  }
  park_if_ending();
  PyEval_RestoreThread(state);
  finish_call(failure);
  if constexpr (!std::is_void_v<Result>) return std::move(*result);
}

template <typename Body>
std::invoke_result_t<Body> BoundEngine::work_alone(Body&& body) {
  std::unique_lock<std::timed_mutex> turn(turn_, std::defer_lock);
  wait_for_turn(turn);
  struct Owner {
    std::atomic<std::thread::id>& id;
    explicit Owner(std::atomic<std::thread::id>& owner) : id(owner) {
      id.store(std::this_thread::get_id());
    }
    ~Owner() { id.store(std::thread::id()); }
  };
  const Owner owner(turn_owner_);
  return work(std::forward<Body>(body));
}

}  // namespace moa_rt::bindings
