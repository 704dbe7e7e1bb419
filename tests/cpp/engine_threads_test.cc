// One engine used from several threads, from its own callbacks and after a fork inside one.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "moa_rt/engine.h"
#include "moa_rt/error.h"
#include "support/engine_scenes.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt {
namespace {

using testing::TempDir;
using testing::Tokens;
using testing::write_tiny_model;

RequestOptions request(std::int64_t new_tokens) { return testing::greedy_request(new_tokens); }

class EngineThreadsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_tiny_model(dir_->path());
  }
  static void TearDownTestSuite() { delete dir_; }

  static EngineOptions options() {
    EngineOptions out;
    out.max_seq_len = 1024;
    out.num_threads = 2;
    return out;
  }

  static inline TempDir* dir_ = nullptr;
  Engine engine_{dir_->path(), options()};
};

// Another thread's steps work on the prompts of generate() too, and bring it events.
TEST_F(EngineThreadsTest, G8_steps_of_another_thread_while_generate_runs) {
  const Tokens want = engine_.generate({{1, 2, 3}}, request(60))[0].token_ids;
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load()) {
      engine_.submit({4, 5}, request(3));
      while (engine_.has_work() && !stop.load()) engine_.step();
    }
  });
  for (int i = 0; i < 5; ++i) {
    const auto out = engine_.generate({{1, 2, 3}, {1, 2, 3}}, request(60));
    EXPECT_EQ(out[0].token_ids, want);
    EXPECT_EQ(out[1].token_ids, want);
  }
  stop.store(true);
  other.join();
}

TEST_F(EngineThreadsTest, G8_sessions_closed_and_requests_cancelled_under_generate) {
  for (int i = 0; i < 10; ++i) {
    RequestOptions turn = request(200);
    turn.session = engine_.open_session(512);
    std::thread other([&] { engine_.close_session(*turn.session); });
    try {
      const Completion out = engine_.generate({{1, 2, 3}}, turn)[0];
      EXPECT_EQ(out.finish_reason, FinishReason::kCancelled);
    } catch (const StateError&) {  // closed before the prompt came
    }
    other.join();
  }
  EXPECT_EQ(engine_.memory().kv_cache, 0);
}

// Nothing of a generate() that throws may be left to a close() in progress.
TEST_F(EngineThreadsTest, G11_close_while_a_callback_throws) {
  for (int i = 0; i < 10; ++i) {
    Engine engine(dir_->path(), options());
    for (int waiting = 0; waiting < 50; ++waiting) engine.submit({4, 5}, request(3));
    std::thread closer;
    EXPECT_THROW(engine.generate(std::vector<Tokens>(50, {1, 2}), request(100),
                                 [&](const TokenEvent&) -> bool {
                                   closer = std::thread([&] { engine.close(); });
                                   throw std::out_of_range("mine");
                                 }),
                 std::out_of_range);
    closer.join();
  }
}

TEST_F(EngineThreadsTest, a_call_of_another_thread_waits_for_a_step_and_not_for_the_whole_answer) {
  std::atomic<bool> generating{false};
  std::atomic<bool> answered_meanwhile{false};
  std::thread other([&] {
    while (!generating.load()) std::this_thread::yield();
    for (int i = 0; i < 10; ++i) (void)engine_.memory();
    answered_meanwhile.store(generating.load());
  });
  engine_.generate({{1, 2}}, request(1000), [&](const TokenEvent&) {
    generating.store(true);
    return true;
  });
  generating.store(false);
  other.join();
  EXPECT_TRUE(answered_meanwhile.load());
}

TEST_F(EngineThreadsTest, G9_the_interrupt_function_may_cancel_and_nothing_else) {
  const RequestId id = engine_.submit({1, 2}, request(50));
  int refused = 0;
  engine_.set_interrupt([&] {
    const auto refuses = [](auto&& call) {
      try {
        call();
      } catch (const StateError&) {
        return 1;
      }
      return 0;
    };
    refused += refuses([&] { engine_.step(); }) + refuses([&] { (void)engine_.memory(); }) +
               refuses([&] { engine_.close(); });
    engine_.cancel(id);
    return false;
  });
  engine_.step();
  EXPECT_EQ(refused, 3 * 3);  // once for each layer
  EXPECT_EQ(engine_.step().at(0).finish, FinishReason::kCancelled);
}

TEST_F(EngineThreadsTest, G12_a_child_forked_in_a_callback_is_refused) {
  pid_t child = 0;
  bool forked = false;
  bool in_child = false;
  try {
    engine_.generate({{1, 2}}, request(5), [&](const TokenEvent&) {
      if (forked) return true;
      forked = true;
      child = fork();
      in_child = child == 0;
      return true;
    });
  } catch (const StateError& error) {
    const bool said = std::string(error.what()).find("created in pid") != std::string::npos;
    if (in_child) _exit(said ? 0 : 2);
  }
  if (in_child) _exit(1);
  ASSERT_GT(child, 0);
  int status = -1;
  for (int i = 0; i < 1000 && waitpid(child, &status, WNOHANG) == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (status == -1) kill(child, SIGKILL);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace moa_rt
