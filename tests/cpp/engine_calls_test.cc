// What the engine does with bad calls, callbacks, cancellation, closing and forks (rows G1-G17, H5,
// H8, H9, L1 of the catalogue of bad inputs).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <thread>

#include "moa_rt/engine.h"
#include "moa_rt/error.h"
#include "support/engine_scenes.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt {
namespace {

using ::testing::HasSubstr;
using testing::TempDir;
using testing::TinyShape;
using testing::Tokens;
using testing::write_tiny_model;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

RequestOptions request(std::int64_t new_tokens) { return testing::greedy_request(new_tokens); }

class EngineCallsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_tiny_model(dir_->path());
  }
  static void TearDownTestSuite() { delete dir_; }

  static EngineOptions options() {
    EngineOptions out;
    out.num_threads = 2;
    out.max_seq_len = 512;
    return out;
  }
  // The message of the error of class E that `call` throws.
  template <typename E, typename Call>
  static std::string error_of(Call&& call) {
    try {
      call();
    } catch (const E& error) {
      return error.what();
    }
    ADD_FAILURE() << "nothing thrown";
    return "";
  }
  static FinishReason run_to_end(Engine& engine, RequestId id, Tokens* tokens = nullptr) {
    FinishReason reason = FinishReason::kNone;
    while (engine.has_work()) {
      for (const TokenEvent& event : engine.step()) {
        if (event.request != id) continue;
        if (event.token && tokens != nullptr) tokens->push_back(*event.token);
        if (event.finish != FinishReason::kNone) reason = event.finish;
      }
    }
    return reason;
  }

  static inline TempDir* dir_ = nullptr;
  Engine engine_{dir_->path(), options()};
};

TEST_F(EngineCallsTest, G1_empty_prompt_and_empty_batch) {
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({}, request(4)); }),
              HasSubstr("0 tokens"));
  EXPECT_TRUE(engine_.generate({}, request(4)).empty());
}

TEST_F(EngineCallsTest, G2_token_out_of_the_vocabulary) {
  for (const std::int32_t bad : {-1, 320, std::numeric_limits<std::int32_t>::max()}) {
    const std::string message =
        error_of<ArgumentError>([&] { engine_.submit({1, 2, bad}, request(4)); });
    EXPECT_THAT(message, HasSubstr("token 2"));
    EXPECT_THAT(message, HasSubstr(std::to_string(bad)));
  }
}

TEST_F(EngineCallsTest, G3_too_long_says_the_three_numbers) {
  const std::string message =
      error_of<ArgumentError>([&] { engine_.submit(Tokens(500, 1), request(13)); });
  EXPECT_THAT(message, HasSubstr("500"));
  EXPECT_THAT(message, HasSubstr("13"));
  EXPECT_THAT(message, HasSubstr("512"));
  RequestOptions truncating = request(13);
  truncating.truncate_left = true;
  const Completion out = engine_.generate({Tokens(600, 1)}, truncating)[0];
  EXPECT_EQ(out.prompt_tokens, 499);
  EXPECT_EQ(out.completion_tokens, 13);
}

TEST_F(EngineCallsTest, G4_max_new_tokens) {
  const Completion nothing = engine_.generate({{1, 2, 3}}, request(0))[0];
  EXPECT_EQ(nothing.finish_reason, FinishReason::kLength);
  EXPECT_TRUE(nothing.token_ids.empty());
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, request(-1)); }),
              HasSubstr("max_new_tokens"));
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, request(std::int64_t{1} << 31)); }),
              HasSubstr("2147483648"));
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, request(INT64_MAX)); }),
              HasSubstr("= 9223372036854775808 tokens"));
  RequestOptions unbounded = request(0);
  unbounded.max_new_tokens.reset();
  EXPECT_EQ(engine_.generate({Tokens(500, 1)}, unbounded)[0].completion_tokens, 12);
}

TEST_F(EngineCallsTest, G5_more_requests_than_slots_queue_and_a_full_queue_is_busy) {
  EngineOptions small = options();
  small.max_batch = 2;
  small.max_queue = 3;
  Engine engine(dir_->path(), small);
  EXPECT_EQ(engine.generate(std::vector<Tokens>(7, Tokens{1, 2}), request(3)).size(), 7u);
  for (int i = 0; i < 3; ++i) engine.submit({1}, request(2));
  EXPECT_THAT(error_of<BusyError>([&] { engine.submit({1}, request(2)); }), HasSubstr("queue"));
}

TEST_F(EngineCallsTest, G6_sampling_options_out_of_bounds) {
  const auto refused = [&](auto&& set, const char* name) {
    RequestOptions bad = request(2);
    set(bad.sampling);
    EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, bad); }), HasSubstr(name));
  };
  for (const double t : {kNan, kInf, -1.0}) {
    refused([&](SamplingOptions& s) { s.temperature = t; }, "temperature");
  }
  for (const double p : {0.0, kNan, 1.0001}) {
    refused([&](SamplingOptions& s) { s.top_p = p; }, "top_p");
  }
  for (const std::int64_t k : {std::int64_t{-1}, std::int64_t{321}}) {
    refused([&](SamplingOptions& s) { s.top_k = k; }, "top_k");
  }
  for (const double p : {0.0, kNan, -1.0}) {
    refused([&](SamplingOptions& s) { s.repetition_penalty = p; }, "repetition_penalty");
  }
  refused([&](SamplingOptions& s) { s.min_p = kNan; }, "min_p");
  refused([&](SamplingOptions& s) { s.presence_penalty = 2.5; }, "presence_penalty");
  refused([&](SamplingOptions& s) { s.logit_bias = {{320, 1.0}}; }, "logit_bias");
  refused([&](SamplingOptions& s) { s.logit_bias = {{3, kNan}}; }, "logit_bias");
}

TEST_F(EngineCallsTest, G6_tiny_temperature_is_greedy) {
  RequestOptions cold = request(12);
  cold.sampling.temperature = 1e-30;
  EXPECT_EQ(engine_.generate({{1, 2, 3}}, cold)[0].token_ids,
            engine_.generate({{1, 2, 3}}, request(12))[0].token_ids);
}

TEST_F(EngineCallsTest, G7_stop_rules_out_of_bounds) {
  RequestOptions bad = request(4);
  bad.min_new_tokens = 5;
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, bad); }),
              HasSubstr("min_new_tokens"));
  bad = request(4);
  bad.stop_token_ids = {320};
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, bad); }),
              HasSubstr("stop_token_ids"));
  bad = request(4);
  bad.stop = {""};
  EXPECT_THAT(error_of<ArgumentError>([&] { engine_.submit({1}, bad); }), HasSubstr("stop"));
}

TEST_F(EngineCallsTest, stop_token_ends_and_min_new_tokens_delays_it) {
  const Tokens free = engine_.generate({{1, 2, 3}}, request(20))[0].token_ids;
  RequestOptions stopping = request(20);
  stopping.stop_token_ids = {free[5]};
  const Completion out = engine_.generate({{1, 2, 3}}, stopping)[0];
  EXPECT_EQ(out.finish_reason, FinishReason::kStop);
  EXPECT_EQ(out.token_ids.back(), free[5]);
  EXPECT_LE(out.token_ids.size(), 6u);
  stopping.min_new_tokens = 10;
  const Completion later = engine_.generate({{1, 2, 3}}, stopping)[0];
  EXPECT_GE(later.token_ids.size(), 10u);
  for (std::size_t i = 0; i + 1 < later.token_ids.size(); ++i) {
    EXPECT_NE(later.token_ids[i], free[5]);
  }
}

TEST_F(EngineCallsTest, G9_throwing_callback_ends_its_call_and_spares_the_others) {
  const RequestId other = engine_.submit({4, 5}, request(6));
  EXPECT_THROW(engine_.generate({{1, 2}}, request(20),
                                [](const TokenEvent&) -> bool { throw std::out_of_range("mine"); }),
               std::out_of_range);
  Tokens tokens;
  EXPECT_EQ(run_to_end(engine_, other, &tokens), FinishReason::kLength);
  EXPECT_EQ(tokens.size(), 6u);
  EXPECT_EQ(engine_.memory().kv_cache, 0);
}

TEST_F(EngineCallsTest, G9_reentry_from_a_callback_is_refused) {
  int refused = 0;
  engine_.generate({{1, 2}}, request(3), [&](const TokenEvent&) {
    refused += error_of<StateError>([&] { engine_.generate({{1}}, request(1)); }).empty() ? 0 : 1;
    refused += error_of<StateError>([&] { engine_.step(); }).empty() ? 0 : 1;
    return true;
  });
  EXPECT_EQ(refused, 6);
}

TEST_F(EngineCallsTest, G9_close_from_a_callback_is_deferred) {
  const Completion out = engine_.generate({{1, 2}}, request(300), [&](const TokenEvent&) {
    engine_.close();
    return true;
  })[0];
  EXPECT_EQ(out.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(out.token_ids.size(), 1u);
  EXPECT_TRUE(engine_.closed());
}

TEST_F(EngineCallsTest, G10_cancel_at_every_stage) {
  const RequestId queued = engine_.submit({1, 2}, request(5));
  engine_.cancel(queued);
  EXPECT_EQ(run_to_end(engine_, queued), FinishReason::kCancelled);

  const RequestId prefilling = engine_.submit(Tokens(500, 3), request(5));
  engine_.step();
  engine_.cancel(prefilling);
  engine_.cancel(prefilling);
  EXPECT_EQ(run_to_end(engine_, prefilling), FinishReason::kCancelled);

  const RequestId decoding = engine_.submit({1, 2}, request(50));
  Tokens tokens;
  for (int i = 0; i < 10; ++i) {
    for (const TokenEvent& event : engine_.step()) tokens.push_back(*event.token);
  }
  engine_.cancel(decoding);
  EXPECT_EQ(run_to_end(engine_, decoding, &tokens), FinishReason::kCancelled);
  EXPECT_EQ(tokens.size(), 10u);
  engine_.cancel(decoding);
  engine_.cancel(123456789);
  EXPECT_EQ(engine_.memory().kv_cache, 0);
}

TEST_F(EngineCallsTest, G10_an_id_that_does_not_exist_yet_is_unknown) {
  const RequestId first = engine_.submit({1, 2}, request(3));
  engine_.cancel(first + 1);
  const RequestId second = engine_.submit({1, 2}, request(3));
  ASSERT_EQ(second, first + 1);
  EXPECT_EQ(run_to_end(engine_, second), FinishReason::kLength);
}

TEST_F(EngineCallsTest, G10_callback_returning_false_cancels_that_request) {
  const auto out = engine_.generate({{1, 2}, {3, 4}}, request(20),
                                    [](const TokenEvent& event) { return event.request != 1; });
  EXPECT_EQ(out[0].finish_reason, FinishReason::kLength);
  EXPECT_EQ(out[1].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(out[1].completion_tokens, 1);
}

TEST_F(EngineCallsTest, G11_closed_engine) {
  const RequestId id = engine_.submit({1, 2}, request(50));
  engine_.step();
  engine_.close();
  engine_.close();
  EXPECT_THAT(error_of<StateError>([&] { engine_.step(); }), HasSubstr("closed"));
  EXPECT_THAT(error_of<StateError>([&] { engine_.submit({1}, request(1)); }), HasSubstr("closed"));
  EXPECT_THAT(error_of<StateError>([&] { engine_.score({1, 2}); }), HasSubstr("closed"));
  engine_.cancel(id);
}

TEST_F(EngineCallsTest, G11_close_from_another_thread_cancels_what_runs) {
  std::thread closer;
  const Completion out = engine_.generate({Tokens(100, 2)}, request(400), [&](const TokenEvent&) {
    if (!closer.joinable()) closer = std::thread([&] { engine_.close(); });
    return true;
  })[0];
  closer.join();
  EXPECT_EQ(out.finish_reason, FinishReason::kCancelled);
}

TEST_F(EngineCallsTest, G12_forked_child_is_refused) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int status = 1;
    try {
      engine_.step();
    } catch (const StateError& error) {
      status = std::string(error.what()).find("created in pid") == std::string::npos ? 2 : 0;
    }
    _exit(status);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(EngineCallsTest, G14_no_such_device) {
  EngineOptions bad = options();
  bad.device = "cuda:x";
  EXPECT_THAT(error_of<ArgumentError>([&] { Engine(dir_->path(), bad); }), HasSubstr("cuda:x"));
  bad.device = "cpu";
  bad.cpu_isa = "mmx";
  EXPECT_THAT(error_of<ArgumentError>([&] { Engine(dir_->path(), bad); }), HasSubstr("mmx"));
}

TEST_F(EngineCallsTest, G17_deadline_passes_while_queued) {
  EngineOptions one = options();
  one.max_batch = 1;
  Engine engine(dir_->path(), one);
  engine.submit({1, 2}, request(50));
  RequestOptions hurried = request(5);
  hurried.deadline_seconds = 0.001;
  const RequestId late = engine.submit({1, 2}, hurried);
  engine.step();
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(run_to_end(engine, late), FinishReason::kError);
}

TEST_F(EngineCallsTest, H8_position_beyond_capacity_is_refused_at_admission) {
  const SessionId session = engine_.open_session(64);
  RequestOptions in_session = request(10);
  in_session.session = session;
  EXPECT_THROW(engine_.submit(Tokens(55, 1), in_session), ArgumentError);
  EXPECT_EQ(engine_.generate({Tokens(54, 1)}, in_session)[0].completion_tokens, 10);
  EXPECT_THROW(engine_.submit({1}, request(512)), ArgumentError);
}

TEST_F(EngineCallsTest, H9_interrupted_step_wipes_its_requests_and_spares_the_engine) {
  const Tokens want = engine_.generate({{1, 2, 3}}, request(8))[0].token_ids;
  int asked = 0;
  engine_.set_interrupt([&] { return ++asked > 7; });
  EXPECT_THAT(error_of<StateError>([&] { engine_.generate({{1, 2, 3}}, request(8)); }),
              HasSubstr("interrupted"));
  EXPECT_EQ(engine_.memory().kv_cache, 0);
  engine_.set_interrupt(nullptr);
  EXPECT_EQ(engine_.generate({{1, 2, 3}}, request(8))[0].token_ids, want);
}

TEST(EngineNumericTest, L1_one_poisoned_request_fails_alone) {
  const TempDir dir;
  TinyShape shape;
  shape.tied = false;
  shape.poisoned_token = 7;
  write_tiny_model(dir.path(), shape);
  EngineOptions options;
  options.num_threads = 2;
  Engine engine(dir.path(), options);
  const auto alone = engine.generate({{1, 2, 3}}, request(8))[0];
  const auto out = engine.generate({{1, 2, 3}, {5, 7, 9}}, request(8));
  EXPECT_EQ(out[0].token_ids, alone.token_ids);
  EXPECT_EQ(out[1].finish_reason, FinishReason::kError);
  EXPECT_EQ(out[1].error_code, ErrorCode::kNumeric);
  EXPECT_TRUE(out[1].token_ids.empty());
  // H5: what the poisoned request left behind reaches nobody.
  EXPECT_EQ(engine.generate({{1, 2, 3}}, request(8))[0].token_ids, alone.token_ids);
}

}  // namespace
}  // namespace moa_rt
