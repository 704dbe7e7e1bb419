#include "core/parallel.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/small_file.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

// About 50 us on current cores: longer than the gap between two ops of a decode step, shorter than
// anything a person would call idle.
constexpr int kSpins = 4000;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Returns when `value` is no longer `old`: spins first, then sleeps.
template <typename T>
T wait_for_change(const std::atomic<T>& value, T old) {
  for (int spin = 0; spin < kSpins; ++spin) {
    const T now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

class ThreadPool::Impl {
 public:
  explicit Impl(int threads) : size_(threads), owner_(getpid()) {
    workers_ = std::make_unique<std::vector<std::thread>>();
    try {
      for (int thread = 1; thread < threads; ++thread) {
        workers_->emplace_back([this, thread] { work(thread); });
      }
    } catch (const std::exception& error) {
      stop();
      throw ResourceError("cannot start thread " + std::to_string(workers_->size() + 1) + " of " +
                          std::to_string(threads) + ": " + error.what());
    }
  }

  ~Impl() {
    if (getpid() != owner_) {
      // In a forked child the threads do not exist; joining them would wait for ever.
      (void)workers_.release();
      return;
    }
    stop();
  }

  int size() const { return size_; }

  void run(ThreadTask task) {
    task_ = &task;
    remaining_.store(size_ - 1, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    call(task, 0);
    for (int left = remaining_.load(std::memory_order_acquire); left != 0;) {
      left = wait_for_change(remaining_, left);
    }
    if (failure_ != nullptr) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void call(const ThreadTask& task, int thread) {
    try {
      task(thread);
    } catch (...) {
      const std::scoped_lock lock(failure_mutex_);
      if (failure_ == nullptr) failure_ = std::current_exception();
    }
  }

  void work(int thread) {
    std::uint64_t seen = 0;
    for (;;) {
      seen = wait_for_change(generation_, seen);
      if (stopping_.load(std::memory_order_relaxed)) return;
      call(*task_, thread);
      if (remaining_.fetch_sub(1, std::memory_order_acq_rel) == 1) remaining_.notify_one();
    }
  }

  void stop() {
    stopping_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& worker : *workers_) worker.join();
  }

  const int size_;
  const pid_t owner_;
  const ThreadTask* task_ = nullptr;
  alignas(64) std::atomic<std::uint64_t> generation_{0};
  alignas(64) std::atomic<int> remaining_{0};
  std::atomic<bool> stopping_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  std::unique_ptr<std::vector<std::thread>> workers_;
};

ThreadPool::ThreadPool(int threads) {
  if (threads < 1) throw InternalError("thread pool of " + std::to_string(threads) + " threads");
  impl_ = std::make_unique<Impl>(threads);
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::size() const { return impl_->size(); }

void ThreadPool::run(ThreadTask task) { impl_->run(task); }

namespace {

// CPUs granted by a cgroup v2 quota ("max 100000" or "150000 100000"), rounded up; 0 if unlimited.
int cgroup_cores() {
  const std::string file = read_small_file("/sys/fs/cgroup/cpu.max");
  std::string_view text = file;
  const auto quota = parse_integer(next_word(text));
  const auto period = parse_integer(next_word(text));
  if (!quota || !period || *quota <= 0 || *period <= 0) return 0;
  return static_cast<int>((*quota - 1) / *period + 1);
}

}  // namespace

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  const int quota = cgroup_cores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::max(cores, 1);
}

}  // namespace moa_rt
