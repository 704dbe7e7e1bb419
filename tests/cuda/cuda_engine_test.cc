// The whole engine on the GPU against the engine on the CPU, on a tiny random model.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "moa_rt/engine.h"
#include "support/engine_scenes.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt::testing {
namespace {

class CudaEngineTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    write_tiny_model(dir_->path());
  }
  static void TearDownTestSuite() { delete dir_; }

  static EngineOptions options(const char* device, const char* dtype) {
    EngineOptions out;
    out.plan = mixed_plan();
    out.device = device;
    out.dtype = dtype;
    out.num_threads = 2;
    out.max_seq_len = 1024;
    return out;
  }
  static Engine open(const char* device, const char* dtype) {
    return Engine(dir_->path(), options(device, dtype));
  }
  static RequestOptions request(std::int64_t new_tokens) { return greedy_request(new_tokens); }

  static inline TempDir* dir_ = nullptr;
};

// |a - b| / |b|.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - b[i], 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / size);
}

double same_choices(const std::vector<float>& a, const std::vector<float>& b, std::size_t vocab) {
  std::size_t same = 0;
  const std::size_t rows = a.size() / vocab;
  for (std::size_t r = 0; r < rows; ++r) {
    const auto best = [&](const std::vector<float>& x) {
      const auto begin = x.begin() + static_cast<std::ptrdiff_t>(r * vocab);
      return std::max_element(begin, begin + static_cast<std::ptrdiff_t>(vocab)) - begin;
    };
    same += best(a) == best(b) ? 1 : 0;
  }
  return static_cast<double>(same) / static_cast<double>(rows);
}

TEST_F(CudaEngineTest, logits_equal_the_cpu_engine) {
  const Tokens tokens = random_tokens(700, 1);
  const std::vector<float> exact = open("cpu", "float32").logits(tokens);
  const std::vector<float> on_cpu = open("cpu", "bfloat16").logits(tokens);
  const std::vector<float> bf16 = open("cuda", "bfloat16").logits(tokens);
  const std::vector<float> fp16 = open("cuda", "float16").logits(tokens);
  ASSERT_EQ(bf16.size(), exact.size());
  RecordProperty("bf16_to_cpu", std::to_string(distance(bf16, on_cpu)));
  RecordProperty("bf16_to_exact", std::to_string(distance(bf16, exact)));
  std::cout << "bf16: to cpu bf16 " << distance(bf16, on_cpu) << ", to float32 "
            << distance(bf16, exact) << " (cpu bf16: " << distance(on_cpu, exact)
            << "); fp16 to float32 " << distance(fp16, exact) << "; same choice "
            << same_choices(bf16, on_cpu, 320) << "\n";
  // No further from the exact engine than twice what bf16 costs on the CPU.
  EXPECT_LT(distance(bf16, exact), 2.0 * distance(on_cpu, exact));
  EXPECT_LT(distance(bf16, on_cpu), 2.0 * distance(on_cpu, exact));
  EXPECT_LT(distance(fp16, exact), 0.25 * distance(on_cpu, exact));
}

// A text longer than a chunk and than the rows whose logits are computed at once.
TEST_F(CudaEngineTest, score_is_the_log_softmax_of_its_own_logits) {
  EngineOptions chunked = options("cuda", "bfloat16");
  chunked.prefill_chunk = 100;
  Engine engine(dir_->path(), chunked);
  const Tokens tokens = random_tokens(257, 9);
  const std::vector<float> logits = engine.logits(tokens);
  const std::vector<float> scores = engine.score(tokens);
  ASSERT_EQ(scores.size(), tokens.size() - 1);
  const std::size_t vocab = logits.size() / tokens.size();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    double sum = 0.0;
    for (std::size_t v = 0; v < vocab; ++v) sum += std::exp(double{logits[i * vocab + v]});
    const double want = logits[i * vocab + static_cast<std::size_t>(tokens[i + 1])] - std::log(sum);
    EXPECT_NEAR(scores[i], want, 1e-5) << i;
  }
}

TEST_F(CudaEngineTest, any_prefill_chunking_gives_close_logits) {
  const Tokens tokens = random_tokens(300, 2);
  const std::vector<float> exact = open("cpu", "float32").logits(tokens);
  const double whole = distance(open("cuda", "bfloat16").logits(tokens), exact);
  for (const std::int64_t chunk : {1, 7, 64, 127, 299}) {
    EngineOptions chunked = options("cuda", "bfloat16");
    chunked.prefill_chunk = chunk;
    EXPECT_LT(distance(Engine(dir_->path(), chunked).logits(tokens), exact), 1.5 * whole)
        << "chunk " << chunk;
  }
}

// The last device while the first is current: the same one where there is only one.
TEST_F(CudaEngineTest, every_device_gives_the_same_answer) {
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  const std::string last = "cuda:" + std::to_string(devices - 1);
  const std::vector<Tokens> prompts = {random_tokens(150, 4), random_tokens(400, 5)};
  const Tokens tokens = random_tokens(300, 2);
  Engine first = open("cuda:0", "bfloat16");
  Engine other = open(last.c_str(), "bfloat16");
  EXPECT_EQ(other.logits(tokens), first.logits(tokens));
  const auto want = first.generate(prompts, request(40));
  const auto got = other.generate(prompts, request(40));
  for (std::size_t p = 0; p < prompts.size(); ++p) EXPECT_EQ(got[p].token_ids, want[p].token_ids);
  int current = -1;
  ASSERT_EQ(cudaGetDevice(&current), cudaSuccess);
  EXPECT_EQ(current, 0);
}

TEST_F(CudaEngineTest, the_same_batch_has_one_text) {
  Engine engine = open("cuda", "bfloat16");
  const std::vector<Tokens> prompts = {random_tokens(3, 3), random_tokens(150, 4),
                                       random_tokens(400, 5)};
  const auto first = engine.generate(prompts, request(60));
  for (int i = 0; i < 20; ++i) {
    const auto again = engine.generate(prompts, request(60));
    for (std::size_t p = 0; p < prompts.size(); ++p) {
      ASSERT_EQ(again[p].token_ids.size(), 60u);
      ASSERT_EQ(again[p].token_ids, first[p].token_ids) << "run " << i;
    }
  }
}

// Decode follows from prefill: the text of greedy decode is what the logits of the text say.
TEST_F(CudaEngineTest, greedy_text_agrees_with_its_own_logits) {
  Engine engine = open("cuda", "float16");
  const Tokens prompt = random_tokens(200, 6);
  const auto text = engine.generate({prompt}, request(100))[0].token_ids;
  Tokens all = prompt;
  all.insert(all.end(), text.begin(), text.end());
  const std::vector<float> logits = engine.logits(all, 300);
  std::size_t same = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>((prompt.size() + i - 1) * 320);
    const auto best = std::max_element(begin, begin + 320) - begin;
    same += best == text[i] ? 1 : 0;
  }
  EXPECT_GE(same, 98u);
}

}  // namespace
}  // namespace moa_rt::testing
