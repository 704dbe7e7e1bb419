// Decode as one graph against the same steps operation by operation, and the engine over it: what
// a request sees must not depend on steps that run ahead.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <new>

#include "moa_rt/error.h"
#include "model/decoder.h"
#include "model/rope_table.h"
#include "runtime/sampler.h"
#include "support/device_data.h"
#include "support/engine_scenes.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace {
std::atomic<std::int64_t> heap_calls{0};
}  // namespace

// Counted, so that a test can show that a step makes none.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++heap_calls;
  if (void* data = std::malloc(bytes)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept { std::free(data); }

namespace moa_rt::testing {
namespace {

// A tiny model on the device, its decoder, and sequences with prefilled caches.
class LoopWorld {
 public:
  static constexpr std::int64_t kLength = 4096;
  static constexpr std::int64_t kRows = 8;

  LoopWorld() {
    TinyShape shape;
    shape.max_positions = kLength;
    write_tiny_model(dir_.path(), shape);
    config_ = ModelConfig::load(dir_.path());
    backend_->reserve({.attention = {4, 2, 64},
                       .max_rows = 512,
                       .max_sequences = kRows,
                       .max_seq_len = kLength,
                       .max_matrix_cols = 256,
                       .dtype = DType::kBF16,
                       .num_layers = 3,
                       .vocab = config_.vocab_size});
    activations_ = Activations::allocate(backend_->allocator(), config_, 512, kRows);
    decoder_ = std::make_unique<Decoder>(
        config_, *backend_, Checkpoint(dir_.path(), config_).load(*backend_, DType::kBF16),
        make_rope_table(config_, kLength, *backend_));
    loop_ = backend_->decode_loop(
        {.logits =
             [this](std::span<const std::int32_t> tokens, std::span<const SequenceSlice> slices) {
               std::vector<std::int64_t> rows;
               for (const SequenceSlice& slice : slices) rows.push_back(slice.row);
               decoder_->forward({tokens, slices}, activations_, {});
               return decoder_->logits(rows, activations_);
             },
         .valid_vocab = config_.vocab_size});
  }

  std::unique_ptr<KVCache> prefilled(std::int64_t length, std::uint32_t seed) {
    auto cache = std::make_unique<KVCache>(
        backend_->allocator(), CacheLayout(mixed_plan().spans(kLength / 2), 64, DType::kBF16));
    const Tokens tokens = random_tokens(length, seed);
    for (std::int64_t done = 0; done < length;) {
      const std::int64_t count = std::min<std::int64_t>(512, length - done);
      const SequenceSlice slice{cache.get(), 0, count, done};
      decoder_->forward({std::span(tokens).subspan(static_cast<std::size_t>(done),
                                                   static_cast<std::size_t>(count)),
                         {&slice, 1}},
                        activations_, {});
      cache->advance(count);
      done += count;
    }
    return cache;
  }

  // Greedy, operation by operation, the host in between.
  Tokens eager_step(const Tokens& tokens, const std::vector<KVCache*>& caches) {
    std::vector<SequenceSlice> slices;
    std::vector<std::int64_t> rows;
    for (KVCache* cache : caches) {
      const auto row = static_cast<std::int64_t>(slices.size());
      slices.push_back({cache, row, 1, cache->length()});
      rows.push_back(row);
    }
    decoder_->forward({tokens, slices}, activations_, {});
    const float* logits = backend_->host_floats(decoder_->logits(rows, activations_));
    Tokens out;
    const auto vocab = static_cast<std::size_t>(config_.vocab_size);
    for (std::size_t i = 0; i < caches.size(); ++i) {
      const std::span<const float> row(logits + i * vocab, vocab);
      out.push_back(first_equal(row, finite_max(row)));
      caches[i]->advance(1);
    }
    return out;
  }

  std::vector<std::byte> bytes_of(const KVCache& cache) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(cache.bytes()));
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(
        cudaMemcpy(bytes.data(), cache.segment(0, 0).keys, bytes.size(), cudaMemcpyDeviceToHost),
        cudaSuccess);
    return bytes;
  }

  Backend& backend() { return *backend_; }
  DecodeLoop& loop() { return *loop_; }

 private:
  TempDir dir_;
  ModelConfig config_;
  std::unique_ptr<Backend> backend_ = make_cuda_backend({DeviceType::kCuda, 0});
  Activations activations_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<DecodeLoop> loop_;
};

DecodeSequence greedy(KVCache& cache, std::int32_t token, bool keep = false) {
  DecodeSequence sequence;
  sequence.cache = &cache;
  sequence.token = token;
  sequence.can_take_back = keep;
  return sequence;
}

// Lengths at the edges of work lists; rows join, leave and move.
TEST(CudaLoopTest, a_graph_decodes_what_the_operations_do) {
  LoopWorld world;
  const std::vector<std::int64_t> lengths = {3, 250, 511, 1020, 2040};
  std::vector<std::unique_ptr<KVCache>> eager, looped;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    eager.push_back(world.prefilled(lengths[i], static_cast<std::uint32_t>(i)));
    looped.push_back(world.prefilled(lengths[i], static_cast<std::uint32_t>(i)));
    world.loop().join(static_cast<std::int64_t>(i), greedy(*looped.back(), 5));
  }
  std::vector<KVCache*> caches;
  for (const auto& cache : eager) caches.push_back(cache.get());
  Tokens want(lengths.size(), 5);
  std::vector<std::int64_t> rows = {0, 1, 2, 3, 4};
  world.loop().launch();
  for (int step = 0; step < 40; ++step) {
    if (step == 12) {  // one leaves, the last takes its row
      (void)world.loop().collect();
      want = world.eager_step(want, caches);
      world.loop().leave(1);
      world.loop().move(4, 1);
      caches.erase(caches.begin() + 1);
      want.erase(want.begin() + 1);
      rows = {0, 2, 3, 1};
      world.loop().launch();
      continue;
    }
    world.loop().launch();
    const auto results = world.loop().collect();
    want = world.eager_step(want, caches);
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(results[static_cast<std::size_t>(rows[i])].token, want[i])
          << "step " << step << " sequence " << i;
    }
  }
  world.loop().wait();
  EXPECT_EQ(world.loop().counters().builds, 2);  // eight rows, then four
}

TEST(CudaLoopTest, a_step_too_many_is_taken_back_to_the_byte) {
  LoopWorld world;
  for (const std::int64_t length : {20, 300, 1500}) {  // before and after windows wrap
    const auto cache = world.prefilled(length, 1);
    const auto other = world.prefilled(length, 2);
    world.loop().join(0, greedy(*other, 7));
    world.loop().join(1, greedy(*cache, 9, true));
    world.loop().launch();
    (void)world.loop().collect();
    cache->advance(1);
    const std::vector<std::byte> before = world.bytes_of(*cache);
    world.loop().launch();
    EXPECT_NE(world.bytes_of(*cache), before);
    world.loop().take_back(1, *cache, cache->length());
    EXPECT_EQ(world.bytes_of(*cache), before) << length;
    (void)world.loop().collect();
    world.loop().leave(0);
    world.loop().leave(1);
  }
}

TEST(CudaLoopTest, a_thousand_steps_allocate_nothing_and_wait_for_nothing) {
  LoopWorld world;
  const auto a = world.prefilled(30, 1);
  const auto b = world.prefilled(200, 2);
  DecodeLoop& loop = world.loop();
  loop.join(0, greedy(*a, 1));
  DecodeSequence sampled = greedy(*b, 2);
  sampled.sampling = plan_sampling(rich_request(1, 1).sampling);
  sampled.logprobs = 5;
  loop.join(1, sampled);
  loop.launch();
  loop.launch();
  (void)loop.collect();
  const DecodeCounters first = loop.counters();
  const std::int64_t blocks = world.backend().allocator().calls();
  std::int64_t in_steps = 0;
  for (int step = 0; step < 1000; ++step) {
    const std::int64_t heap = heap_calls.load();
    loop.launch();
    (void)loop.collect();
    const std::int64_t made = heap_calls.load() - heap;
    // Work lists are made anew once in 256 tokens of a sequence.
    if (made > 0) ++in_steps;
    ASSERT_EQ(loop.counters().nodes, first.nodes) << step;
  }
  EXPECT_LE(in_steps, 2 * (1 + 1000 / 256));
  EXPECT_EQ(loop.counters().builds, first.builds);
  EXPECT_EQ(loop.counters().waits, first.waits);
  EXPECT_EQ(world.backend().allocator().calls(), blocks);
  loop.wait();
}

class CudaLoopEngineTest : public ::testing::Test {
 protected:
  static EngineOptions options() {
    EngineOptions out;
    out.plan = mixed_plan();
    out.device = "cuda";
    out.dtype = "bfloat16";
    out.max_seq_len = 1024;
    return out;
  }
  CudaLoopEngineTest() {
    write_tiny_model(dir_.path());
    engine_.emplace(dir_.path(), options());
  }

  TempDir dir_;
  std::optional<Engine> engine_;
};

TEST_F(CudaLoopEngineTest, the_same_ragged_batch_has_one_text_a_hundred_times) {
  std::vector<Tokens> prompts;
  std::vector<RequestOptions> requests;
  for (std::uint32_t i = 0; i < 7; ++i) {
    prompts.push_back(random_tokens(3 + 67 * i, i));
    requests.push_back(i % 2 == 0 ? greedy_request(20 + i, 2) : rich_request(20 + i, i));
  }
  const auto first = engine_->generate(prompts, requests);
  for (int run = 0; run < 100; ++run) {
    const auto again = engine_->generate(prompts, requests);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_EQ(again[i].token_ids, first[i].token_ids) << "run " << run;
      for (std::size_t t = 0; t < first[i].logprobs.size(); ++t) {
        ASSERT_EQ(again[i].logprobs[t].logprob, first[i].logprobs[t].logprob) << "run " << run;
      }
    }
  }
}

// Log-probabilities of the device are those that scoring finds with the host's arithmetic.
TEST_F(CudaLoopEngineTest, logprobs_are_those_of_the_text) {
  const Tokens prompt = random_tokens(60, 3);
  const Completion out = engine_->generate({prompt}, greedy_request(50, 4))[0];
  Tokens all = prompt;
  all.insert(all.end(), out.token_ids.begin(), out.token_ids.end());
  const std::vector<float> scores = engine_->score(all, 110);
  for (std::size_t i = 0; i < out.token_ids.size(); ++i) {
    EXPECT_NEAR(out.logprobs[i].logprob, scores[prompt.size() - 1 + i], 5e-2) << i;
    EXPECT_EQ(out.logprobs[i].top[0].first, out.token_ids[i]) << i;
    EXPECT_EQ(out.logprobs[i].top[0].second, out.logprobs[i].logprob) << i;
  }
}

// A turn ended by a stop token or a callback runs a step ahead on the device; a turn of just as
// many tokens does not. The session must not know the difference.
TEST_F(CudaLoopEngineTest, a_session_does_not_see_the_step_too_many) {
  const Tokens first = random_tokens(400, 4);
  const Tokens second = random_tokens(9, 5);
  const Tokens free = engine_->generate({first}, greedy_request(30))[0].token_ids;
  const auto talk = [&](int way) {
    RequestOptions turn = greedy_request(way == 0 ? 12 : 40, 2);
    turn.session = engine_->open_session(700);
    int seen = 0;
    Completion head = engine_->generate(
        {first}, {turn}, [&](const TokenEvent&) { return way == 0 || ++seen < 12; })[0];
    EXPECT_EQ(head.token_ids.size(), 12u);
    EXPECT_EQ(engine_->session_length(*turn.session), 412);
    engine_->rollback_session(*turn.session, 2);  // over a wrapped window: legal without the step
    turn.max_new_tokens = 30;
    const Completion tail = engine_->generate({second}, turn)[0];
    engine_->close_session(*turn.session);
    return std::pair(head, tail);
  };
  const auto [head, tail] = talk(0);
  const auto [stopped_head, stopped_tail] = talk(1);
  EXPECT_EQ(head.token_ids, stopped_head.token_ids);
  EXPECT_EQ(stopped_head.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(tail.token_ids, stopped_tail.token_ids);
  for (std::size_t i = 0; i < tail.logprobs.size(); ++i) {
    EXPECT_EQ(tail.logprobs[i].logprob, stopped_tail.logprobs[i].logprob) << i;
  }
}

TEST_F(CudaLoopEngineTest, a_stop_token_ends_the_text_where_it_stands) {
  const Tokens prompt = random_tokens(50, 8);
  const Tokens free = engine_->generate({prompt}, greedy_request(40))[0].token_ids;
  RequestOptions request = greedy_request(40);
  request.stop_token_ids = {free[10]};
  const Completion out = engine_->generate({prompt}, request)[0];
  const auto stop = std::ranges::find(free, free[10]);
  EXPECT_EQ(out.token_ids, Tokens(free.begin(), stop + 1));
  EXPECT_EQ(out.finish_reason, FinishReason::kStop);
}

TEST_F(CudaLoopEngineTest, a_thousand_steps_of_the_engine_have_constant_counters) {
  RequestOptions request = greedy_request(1010);
  engine_->submit(random_tokens(4, 1), request);
  for (int i = 0; i < 4; ++i) engine_->step();
  const EngineStats before = engine_->stats();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(engine_->step().size(), 1u);
  }
  const EngineStats after = engine_->stats();
  EXPECT_EQ(after.loop_steps - before.loop_steps, 1000);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.graph_builds, before.graph_builds);
  EXPECT_EQ(after.graph_nodes, before.graph_nodes);
  EXPECT_EQ(after.device_waits, before.device_waits);
}

TEST(CudaLoopNumericTest, L1_one_poisoned_request_fails_alone) {
  TempDir dir;
  TinyShape shape;
  shape.poisoned_token = 17;
  shape.tied = false;
  write_tiny_model(dir.path(), shape);
  EngineOptions options;
  options.device = "cuda";
  options.dtype = "bfloat16";
  options.max_seq_len = 256;
  Engine engine(dir.path(), options);
  RequestOptions forced = greedy_request(10);
  forced.sampling.logit_bias = {{17, 100.0}};  // chosen at the prompt's end, read by the loop
  const auto out = engine.generate({{1, 2, 3}, {4, 5, 6}}, {forced, greedy_request(10)});
  EXPECT_EQ(out[0].finish_reason, FinishReason::kError);
  EXPECT_EQ(out[0].error_code, ErrorCode::kNumeric);
  EXPECT_EQ(out[0].token_ids, Tokens{17});
  EXPECT_EQ(out[1].token_ids.size(), 10u);
}

}  // namespace
}  // namespace moa_rt::testing
