// Tells which thread is inside a function of the caller's.
#pragma once

#include <atomic>
#include <thread>

namespace moa_rt {

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

}  // namespace moa_rt
