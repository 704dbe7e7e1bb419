// Conversations: further turns appended to a live sequence, and tokens taken back.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "moa_rt/engine.h"
#include "moa_rt/error.h"
#include "support/engine_scenes.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt {
namespace {

using testing::random_tokens;
using testing::TempDir;
using testing::Tokens;
using testing::write_tiny_model;

class SessionTest : public ::testing::Test {
 protected:
  static constexpr std::int64_t kBudget = 512;

  SessionTest() {
    write_tiny_model(dir_.path());
    const SpanRule narrow{64, 0, 0};
    const SpanRule wide{0, std::int64_t{1} << 31, 0};
    EngineOptions options;
    options.plan = AttentionPlan::from_rules({{narrow, wide}, {wide, wide}, {wide, narrow}}, 8, 8);
    options.dtype = "float32";
    options.num_threads = 2;
    options.prefill_chunk = 48;
    engine_ = std::make_unique<Engine>(dir_.path(), options);
  }

  RequestOptions in_session(SessionId session, std::int64_t new_tokens) const {
    RequestOptions out;
    out.max_new_tokens = new_tokens;
    out.ignore_eos = true;
    out.logprobs = 4;
    out.session = session;
    return out;
  }

  // Log-probabilities of the turn's answer must be those of the whole text read at once.
  void expect_continues(const Tokens& history, const Completion& turn) const {
    Tokens all = history;
    all.insert(all.end(), turn.token_ids.begin(), turn.token_ids.end());
    const std::vector<float> scores = engine_->score(all, kBudget);
    for (std::size_t i = 0; i < turn.token_ids.size(); ++i) {
      EXPECT_NEAR(turn.logprobs[i].logprob, scores[history.size() - 1 + i], 2e-4) << i;
    }
  }

  TempDir dir_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(SessionTest, turns_continue_as_if_read_at_once) {
  const SessionId session = engine_->open_session(kBudget);
  Tokens history;
  for (std::uint32_t turn = 0; turn < 5; ++turn) {
    const Tokens prompt = random_tokens(1 + turn * 30, turn);
    const Completion out = engine_->generate({prompt}, in_session(session, 17))[0];
    history.insert(history.end(), prompt.begin(), prompt.end());
    expect_continues(history, out);
    history.insert(history.end(), out.token_ids.begin(), out.token_ids.end());
    EXPECT_EQ(engine_->session_length(session), static_cast<std::int64_t>(history.size()));
  }
}

TEST_F(SessionTest, rollback_then_another_answer) {
  const SessionId session = engine_->open_session(kBudget);
  const Tokens prompt = random_tokens(20, 1);
  engine_->generate({prompt}, in_session(session, 10));
  engine_->rollback_session(session, 10);
  EXPECT_EQ(engine_->session_length(session), 20);
  const Tokens more = random_tokens(5, 2);
  const Completion out = engine_->generate({more}, in_session(session, 12))[0];
  Tokens history = prompt;
  history.insert(history.end(), more.begin(), more.end());
  expect_continues(history, out);
}

TEST_F(SessionTest, H7_rollback_over_a_wrapped_window_fails_and_changes_nothing) {
  const SessionId session = engine_->open_session(kBudget);
  const Tokens prompt = random_tokens(200, 3);
  const Completion first = engine_->generate({prompt}, in_session(session, 8))[0];
  EXPECT_THROW(engine_->rollback_session(session, 50), StateError);
  EXPECT_EQ(engine_->session_length(session), 208);
  Tokens history = prompt;
  history.insert(history.end(), first.token_ids.begin(), first.token_ids.end());
  const Tokens more = random_tokens(9, 4);
  history.insert(history.end(), more.begin(), more.end());
  expect_continues(history, engine_->generate({more}, in_session(session, 8))[0]);
}

TEST_F(SessionTest, penalties_see_the_earlier_turns) {
  const Tokens first = random_tokens(40, 5);
  const Tokens second = random_tokens(10, 6);
  const auto penalised = [&](std::optional<SessionId> session) {
    RequestOptions options = in_session(0, 20);
    options.session = session;
    options.sampling.repetition_penalty = 1.8;
    return options;
  };
  const SessionId session = engine_->open_session(kBudget);
  RequestOptions silent = in_session(session, 0);
  engine_->generate({first}, silent);
  const Tokens turns = engine_->generate({second}, penalised(session))[0].token_ids;

  const SessionId whole = engine_->open_session(kBudget);
  Tokens both = first;
  both.insert(both.end(), second.begin(), second.end());
  EXPECT_EQ(turns, engine_->generate({both}, penalised(whole))[0].token_ids);
}

TEST_F(SessionTest, misuse_is_refused) {
  EXPECT_THROW(engine_->session_length(99), StateError);
  EXPECT_THROW(engine_->open_session(0), ArgumentError);
  EXPECT_THROW(engine_->open_session(1 << 20), ArgumentError);
  const SessionId session = engine_->open_session(kBudget);
  engine_->submit({1, 2}, in_session(session, 5));
  EXPECT_THROW(engine_->submit({3}, in_session(session, 5)), StateError);
  EXPECT_THROW(engine_->rollback_session(session, 1), StateError);
  while (engine_->has_work()) engine_->step();
  EXPECT_THROW(engine_->rollback_session(session, 8), ArgumentError);
  engine_->close_session(session);
  EXPECT_THROW(engine_->submit({3}, in_session(session, 5)), StateError);
  EXPECT_EQ(engine_->memory().kv_cache, 0);
}

TEST_F(SessionTest, closing_a_session_cancels_its_request) {
  const SessionId session = engine_->open_session(kBudget);
  const RequestId id = engine_->submit({1, 2}, in_session(session, 50));
  engine_->step();
  engine_->close_session(session);
  FinishReason reason = FinishReason::kNone;
  while (engine_->has_work()) {
    for (const TokenEvent& event : engine_->step()) {
      if (event.request == id) reason = event.finish;
    }
  }
  EXPECT_EQ(reason, FinishReason::kCancelled);
}

TEST_F(SessionTest, one_call_cannot_append_two_prompts_to_a_session) {
  const SessionId session = engine_->open_session(kBudget);
  EXPECT_THROW(engine_->generate({{1, 2}, {3, 4}}, in_session(session, 5)), ArgumentError);
  EXPECT_FALSE(engine_->has_work());
  EXPECT_EQ(engine_->generate({{1, 2}}, in_session(session, 5))[0].completion_tokens, 5);
}

TEST_F(SessionTest, H9_a_step_that_throws_closes_the_sessions_it_ran) {
  const SessionId broken = engine_->open_session(kBudget);
  const RequestId id = engine_->submit(random_tokens(100, 7), in_session(broken, 5));
  engine_->step();
  engine_->set_interrupt([]() -> bool { throw std::out_of_range("mine"); });
  EXPECT_THROW(engine_->step(), std::out_of_range);
  engine_->set_interrupt(nullptr);
  const std::vector<TokenEvent> events = engine_->step();
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].request, id);
  EXPECT_EQ(events[0].finish, FinishReason::kError);
  EXPECT_EQ(events[0].error_code, ErrorCode::kInternal);
  EXPECT_THROW(engine_->session_length(broken), StateError);
  EXPECT_NO_THROW(engine_->close_session(broken)) << "owners close it without knowing";
  EXPECT_EQ(engine_->memory().kv_cache, 0);
}

// The step that fails has appended the token whose successor it could not choose.
TEST(SessionNumericTest, L1_a_failed_answer_leaves_the_session_its_true_length) {
  const TempDir dir;
  testing::TinyShape shape;
  shape.tied = false;
  shape.poisoned_token = 7;
  write_tiny_model(dir.path(), shape);
  EngineOptions two_threads;
  two_threads.num_threads = 2;
  Engine engine(dir.path(), two_threads);
  RequestOptions options;
  options.max_new_tokens = 8;
  options.session = engine.open_session(64);
  options.sampling.logit_bias = {{7, 100.0}};
  EXPECT_EQ(engine.generate({{1, 2, 3}}, options)[0].error_code, ErrorCode::kNumeric);
  EXPECT_EQ(engine.session_length(*options.session), 4);
  engine.rollback_session(*options.session, 1);
  options.sampling.logit_bias = {};
  const Tokens turns = engine.generate({{4}}, options)[0].token_ids;
  options.session = engine.open_session(64);
  EXPECT_EQ(engine.generate({{1, 2, 3, 4}}, options)[0].token_ids, turns);
}

class SessionMemoryTest : public ::testing::Test {
 protected:
  // Room for one sequence of 256 tokens and no more.
  SessionMemoryTest() {
    write_tiny_model(dir_.path());
    EngineOptions options;
    options.dtype = "float32";
    options.max_seq_len = 256;
    options.num_threads = 2;
    options.kv_cache_bytes =
        AttentionPlan::dense(ModelConfig::load(dir_.path())).cache_bytes(256, 64, DType::kF32);
    engine_ = std::make_unique<Engine>(dir_.path(), options);
  }

  static RequestOptions request(std::int64_t new_tokens) {
    RequestOptions out;
    out.max_new_tokens = new_tokens;
    out.ignore_eos = true;
    return out;
  }

  TempDir dir_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(SessionMemoryTest, a_turn_needs_no_memory_and_passes_a_request_that_waits_for_it) {
  RequestOptions turn = request(5);
  turn.session = engine_->open_session(256);
  const RequestId waiting = engine_->submit({1, 2}, request(5));
  EXPECT_EQ(engine_->generate({{3, 4}}, turn)[0].completion_tokens, 5);
  engine_->close_session(*turn.session);
  std::int64_t tokens = 0;
  while (engine_->has_work()) {
    for (const TokenEvent& event : engine_->step()) tokens += event.request == waiting ? 1 : 0;
  }
  EXPECT_EQ(tokens, 5);
}

TEST_F(SessionMemoryTest, step_does_not_pretend_to_work_while_sessions_hold_all_memory) {
  const SessionId session = engine_->open_session(256);
  const RequestId waiting = engine_->submit({1, 2}, request(3));
  EXPECT_THROW(engine_->step(), BusyError);
  EXPECT_THROW(engine_->generate({{1, 2}}, request(3)), BusyError);
  EXPECT_TRUE(engine_->has_work());
  engine_->cancel(waiting);
  EXPECT_EQ(engine_->step().at(0).finish, FinishReason::kCancelled);
  EXPECT_TRUE(engine_->step().empty());
  engine_->close_session(session);
  EXPECT_EQ(engine_->generate({{1, 2}}, request(3))[0].completion_tokens, 3);
}

}  // namespace
}  // namespace moa_rt
