// The engine over a decode loop against the engine that decodes operation by operation: the same
// events whatever runs ahead on the device. "cuda" is a CPU backend with a loop in this program.
#include <gtest/gtest.h>

#include <map>

#include "moa_rt/error.h"
#include "support/engine_scenes.h"
#include "support/loop_backend.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt {

std::unique_ptr<Backend> make_cuda_backend(const Device&) {
  return std::make_unique<testing::LoopBackend>();
}

namespace {

using testing::greedy_request;
using testing::mixed_plan;
using testing::random_tokens;
using testing::rich_request;
using testing::TempDir;
using testing::Tokens;

class EngineLoopTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::write_tiny_model(dir_->path());
  }
  static void TearDownTestSuite() { delete dir_; }

  static EngineOptions options(const char* device) {
    EngineOptions out;
    out.plan = mixed_plan();
    out.device = device;
    out.dtype = "float32";
    out.num_threads = 2;
    out.max_seq_len = 512;
    out.max_batch = 5;
    return out;
  }

  static inline TempDir* dir_ = nullptr;
  Engine plain_{dir_->path(), options("cpu")};
  Engine looped_{dir_->path(), options("cuda")};
};

void expect_same(const Completion& got, const Completion& want) {
  EXPECT_EQ(got.token_ids, want.token_ids);
  EXPECT_EQ(got.finish_reason, want.finish_reason);
  EXPECT_EQ(got.error, want.error);
  ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
  for (std::size_t i = 0; i < want.logprobs.size(); ++i) {
    EXPECT_EQ(got.logprobs[i].logprob, want.logprobs[i].logprob) << i;
    EXPECT_EQ(got.logprobs[i].top, want.logprobs[i].top) << i;
  }
}

TEST_F(EngineLoopTest, requests_of_all_lengths_come_and_go) {
  std::vector<Tokens> prompts;
  std::vector<RequestOptions> requests;
  for (std::uint32_t i = 0; i < 23; ++i) {
    prompts.push_back(random_tokens(1 + (i * 37) % 90, i));
    requests.push_back(i % 3 == 0 ? greedy_request(1 + (i * 7) % 40, 2)
                                  : rich_request(2 + (i * 11) % 50, i));
  }
  const auto want = plain_.generate(prompts, requests);
  const auto got = looped_.generate(prompts, requests);
  for (std::size_t i = 0; i < want.size(); ++i) expect_same(got[i], want[i]);
  EXPECT_GT(looped_.stats().loop_steps, 0);
  EXPECT_EQ(looped_.stats().decode_tokens, plain_.stats().decode_tokens);
  EXPECT_EQ(looped_.memory().kv_cache, 0);
}

TEST_F(EngineLoopTest, no_logits_reach_the_host) {
  const std::int64_t before = testing::LoopBackend::host_reads;
  const auto out = looped_.generate({random_tokens(40, 2), random_tokens(3, 3)},
                                    {greedy_request(9, 2), rich_request(12, 4)});
  EXPECT_EQ(out[0].token_ids.size(), 9u);
  EXPECT_EQ(testing::LoopBackend::host_reads, before);
}

TEST_F(EngineLoopTest, no_step_is_launched_beyond_a_length_that_is_known) {
  looped_.generate({random_tokens(5, 1)}, greedy_request(2));
  EXPECT_EQ(looped_.stats().loop_steps, 1);
  looped_.generate({random_tokens(5, 1), random_tokens(6, 2)}, greedy_request(10));
  EXPECT_EQ(looped_.stats().loop_steps, 1 + 9);
}

TEST_F(EngineLoopTest, every_step_brings_events) {
  const RequestId id = looped_.submit(random_tokens(20, 3), greedy_request(30));
  std::int64_t tokens = 0;
  while (looped_.has_work()) {
    const auto events = looped_.step();
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].request, id);
    ++tokens;
  }
  EXPECT_EQ(tokens, 30);
}

TEST_F(EngineLoopTest, a_batch_that_shrinks_runs_in_fewer_rows) {
  std::vector<Tokens> prompts;
  std::vector<RequestOptions> requests;
  for (std::uint32_t i = 0; i < 5; ++i) {
    prompts.push_back(random_tokens(10, i));
    requests.push_back(greedy_request(i == 4 ? 40 : 5 + i, 2));
  }
  const auto got = looped_.generate(prompts, requests);
  EXPECT_EQ(looped_.stats().graph_nodes, 1);  // rows of the last step
  const auto want = plain_.generate(prompts, requests);
  for (std::size_t i = 0; i < want.size(); ++i) expect_same(got[i], want[i]);
}

TEST_F(EngineLoopTest, stop_tokens_and_min_new_tokens) {
  const Tokens prompt = random_tokens(30, 9);
  const Tokens free = plain_.generate({prompt}, greedy_request(40))[0].token_ids;
  for (const std::int64_t least : {0, 12, 25}) {
    RequestOptions request = greedy_request(40, 1);
    request.stop_token_ids = {free[5], free[20]};
    request.min_new_tokens = least;
    expect_same(looped_.generate({prompt}, request)[0], plain_.generate({prompt}, request)[0]);
  }
}

// The turn ends a step late on the device; nothing of that step may be seen afterwards.
TEST_F(EngineLoopTest, sessions_stopped_in_every_way_go_on_alike) {
  const Tokens first = random_tokens(150, 4);
  const Tokens second = random_tokens(7, 5);
  const Tokens free = plain_.generate({first}, greedy_request(30))[0].token_ids;
  const auto talk = [&](Engine& engine, int way) {
    RequestOptions turn = way == 2 ? rich_request(30, 7) : greedy_request(30, 2);
    turn.session = engine.open_session(400);
    if (way == 0) turn.stop_token_ids = {free[9]};
    int seen = 0;
    std::vector<Completion> out = engine.generate(
        {first}, {turn}, [&](const TokenEvent&) { return way != 1 || ++seen < 11; });
    std::vector<std::int64_t> lengths = {engine.session_length(*turn.session)};
    engine.rollback_session(*turn.session, 1);
    turn.stop_token_ids.clear();
    out.push_back(engine.generate({second}, turn)[0]);
    lengths.push_back(engine.session_length(*turn.session));
    engine.close_session(*turn.session);
    return std::pair(out, lengths);
  };
  for (int way = 0; way < 3; ++way) {
    const auto [got, got_lengths] = talk(looped_, way);
    const auto [want, want_lengths] = talk(plain_, way);
    EXPECT_EQ(got_lengths, want_lengths) << way;
    for (std::size_t i = 0; i < want.size(); ++i) expect_same(got[i], want[i]);
  }
}

TEST_F(EngineLoopTest, G10_cancelled_between_steps_and_closed_with_a_step_in_flight) {
  const RequestId stays = looped_.submit(random_tokens(20, 1), greedy_request(25));
  const RequestId goes = looped_.submit(random_tokens(30, 2), greedy_request(25));
  std::map<RequestId, int> tokens;
  while (looped_.has_work()) {
    for (const TokenEvent& event : looped_.step()) {
      if (event.token) ++tokens[event.request];
    }
    if (tokens[goes] == 6) looped_.cancel(goes);
  }
  EXPECT_EQ(tokens[stays], 25);
  EXPECT_EQ(tokens[goes], 6);
  looped_.submit(random_tokens(20, 1), greedy_request(25));
  for (int i = 0; i < 4; ++i) looped_.step();
  looped_.close();
  EXPECT_TRUE(looped_.closed());
}

TEST_F(EngineLoopTest, H9_interrupted_step_ends_its_requests_and_spares_the_engine) {
  const Tokens prompt = random_tokens(20, 1);
  const Tokens want = plain_.generate({prompt}, greedy_request(20))[0].token_ids;
  const SessionId session = looped_.open_session(100);
  RequestOptions turn = greedy_request(50);
  turn.session = session;
  looped_.submit(prompt, turn);
  for (int i = 0; i < 5; ++i) looped_.step();
  looped_.set_interrupt([] { return true; });
  EXPECT_THROW(looped_.step(), StateError);
  looped_.set_interrupt(nullptr);
  EXPECT_EQ(looped_.step().at(0).finish, FinishReason::kCancelled);
  EXPECT_THROW(looped_.session_length(session), StateError);
  EXPECT_EQ(looped_.generate({prompt}, greedy_request(20))[0].token_ids, want);
}

}  // namespace
}  // namespace moa_rt
