// A fixed set of threads that run one function over a static partition, with a spinning barrier.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace moa_rt {

// A function reference: no allocation, valid during the call.
class ThreadTask {
 public:
  template <typename F>
  ThreadTask(F& function)  // NOLINT: implicit on purpose
      : object_(&function),
        call_([](void* object, int thread) { (*static_cast<F*>(object))(thread); }) {}
  void operator()(int thread) const { call_(object_, thread); }

 private:
  void* object_;
  void (*call_)(void*, int);
};

// The calling thread works as thread 0. Waiting threads spin for a short while and then sleep. Not
// re-entrant; one caller at a time. Safe to destroy in a forked child, where its threads do not
// exist.
class ThreadPool {
 public:
  // `threads` >= 1. Throws ResourceError if a thread cannot be started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;
  // Runs task(thread) for every thread in [0, size()) and waits. The first exception is rethrown.
  void run(ThreadTask task);

  // body(begin, end, thread) over [0, count) in contiguous parts that depend only on count, the
  // grain and size(). Parts are multiples of `grain`.
  template <typename Body>
  void parallel_for(std::int64_t count, std::int64_t grain, Body&& body) {
    const std::int64_t grains = (count + grain - 1) / grain;
    if (grains <= 1 || size() == 1) {
      if (count > 0) body(std::int64_t{0}, count, 0);
      return;
    }
    auto part = [&](int thread) {
      const std::int64_t begin = grains * thread / size() * grain;
      const std::int64_t limit = grains * (thread + 1) / size() * grain;
      const std::int64_t end = limit < count ? limit : count;
      if (begin < end) body(begin, end, thread);
    };
    run(ThreadTask(part));
  }

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Cores this process may run on (its affinity mask and, where set, its cgroup's CPU quota).
int available_cores();

}  // namespace moa_rt
