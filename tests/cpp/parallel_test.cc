#include "core/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace moa_rt {
namespace {

TEST(Parallel, every_thread_runs_once_per_call) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    std::vector<int> runs(static_cast<std::size_t>(threads), 0);
    auto task = [&](int thread) { ++runs[static_cast<std::size_t>(thread)]; };
    for (int i = 0; i < 300; ++i) pool.run(ThreadTask(task));
    for (const int count : runs) EXPECT_EQ(count, 300);
  }
}

TEST(Parallel, the_caller_is_thread_zero) {
  ThreadPool pool(3);
  std::vector<std::thread::id> ids(3);
  auto task = [&](int thread) {
    ids[static_cast<std::size_t>(thread)] = std::this_thread::get_id();
  };
  pool.run(ThreadTask(task));
  EXPECT_EQ(ids[0], std::this_thread::get_id());
  EXPECT_NE(ids[1], ids[0]);
  EXPECT_NE(ids[1], ids[2]);
}

TEST(Parallel, parts_cover_the_range_once_in_multiples_of_the_grain) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (const std::int64_t count : {0, 1, 7, 8, 9, 100, 1000}) {
      for (const std::int64_t grain : {1, 4, 16}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
        pool.parallel_for(count, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
          EXPECT_EQ(begin % grain, 0);
          EXPECT_TRUE(end % grain == 0 || end == count);
          EXPECT_LT(thread, threads);
          for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        });
        for (const auto& times : seen) EXPECT_EQ(times, 1);
      }
    }
  }
}

TEST(Parallel, wakes_after_sleeping) {
  ThreadPool pool(2);
  std::atomic<int> runs{0};
  auto task = [&](int) { ++runs; };
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // beyond any spinning
    pool.run(ThreadTask(task));
  }
  EXPECT_EQ(runs, 6);
}

TEST(Parallel, an_exception_reaches_the_caller_and_the_pool_lives_on) {
  ThreadPool pool(3);
  for (int failing = 0; failing < 3; ++failing) {
    auto task = [&](int thread) {
      if (thread == failing) throw std::runtime_error("thread " + std::to_string(thread));
    };
    EXPECT_THROW(pool.run(ThreadTask(task)), std::runtime_error);
  }
  std::atomic<int> runs{0};
  auto task = [&](int) { ++runs; };
  pool.run(ThreadTask(task));
  EXPECT_EQ(runs, 3);
}

// G12: the child of a fork has no worker threads; destroying the pool there must not wait for them.
TEST(Parallel, G12_destroying_in_a_forked_child_does_not_hang) {
  auto pool = std::make_unique<ThreadPool>(3);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    pool.reset();
    _exit(0);
  }
  int status = -1;
  for (int i = 0; i < 500 && waitpid(child, &status, WNOHANG) == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(Parallel, available_cores_is_within_the_machine) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_LE(available_cores(), sysconf(_SC_NPROCESSORS_CONF));
}

}  // namespace
}  // namespace moa_rt
