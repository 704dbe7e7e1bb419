// Memory of the GPU: predicted, taken at once, refused where it is short, given back.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "cuda/runtime/device_allocator.h"
#include "cuda/runtime/device_memory.h"
#include "moa_rt/engine.h"
#include "moa_rt/error.h"
#include "ops/backend.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
// The driver hands out whole pages of 2 MiB, and keeps or returns one of its own now and then.
constexpr std::int64_t kDriverSlack = 4 * kMiB;

std::int64_t free_now() {
  std::size_t free = 0, total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  return static_cast<std::int64_t>(free);
}

class CudaMemoryTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    TinyShape shape;
    shape.hidden = 512;
    shape.intermediate = 1536;
    shape.heads = 8;
    shape.kv_heads = 4;
    write_tiny_model(dir_->path(), shape);
  }
  static void TearDownTestSuite() { delete dir_; }

  static EngineOptions options(std::int64_t max_batch = 4) {
    EngineOptions out;
    out.device = "cuda";
    out.dtype = "bfloat16";
    out.max_batch = max_batch;
    out.max_seq_len = 2048;
    return out;
  }
  static RequestOptions request(std::int64_t new_tokens) {
    RequestOptions out;
    out.max_new_tokens = new_tokens;
    out.ignore_eos = true;
    return out;
  }

  static inline TempDir* dir_ = nullptr;
};

// Everything but the context, which the first question has made.
TEST_F(CudaMemoryTest, I2_the_prediction_is_what_the_driver_sees_taken) {
  const MemoryPrediction need = predict_memory(dir_->path(), options());
  const std::int64_t before = free_now();
  Engine engine(dir_->path(), options());
  const std::int64_t opened = before - free_now();
  const std::vector<std::int32_t> prompt(1500, 7);
  (void)engine.generate({prompt, prompt, prompt, {1, 2, 3}}, request(300));
  const std::int64_t used = before - free_now();
  const std::int64_t ours = need.total(4) - need.runtime;
  std::cout << "predicted " << ours << " and " << need.runtime
            << " for the runtime; taken at opening " << opened << ", after work " << used << "\n";
  EXPECT_GE(opened, ours);
  EXPECT_LE(opened, ours + need.runtime);
  EXPECT_LE(used, ours + need.runtime);
}

TEST_F(CudaMemoryTest, I2_the_context_is_what_the_runtime_is_predicted_to_take) {
  std::size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  const auto taken = static_cast<std::int64_t>(total - free);
  std::cout << "taken of " << total << " by everybody: " << taken
            << ", predicted for one: " << cuda::device_runtime_bytes() << "\n";
  EXPECT_LE(cuda::device_runtime_bytes(), 2 * taken);
  EXPECT_GE(cuda::device_runtime_bytes(), taken / 4);
}

TEST_F(CudaMemoryTest, G15_too_little_memory_is_refused_and_a_smaller_engine_opens) {
  EngineOptions large = options();
  large.kv_cache_bytes = std::int64_t{1} << 42;
  const auto refused = [&] {
    try {
      Engine engine(dir_->path(), large);
      FAIL() << "opened";
    } catch (const ResourceError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("memory of cuda:0"), HasSubstr("missing"),
                                      HasSubstr("largest batch that fits")));
    }
  };
  refused();  // what the driver loads for the first question stays loaded
  const std::int64_t before = free_now();
  for (int i = 0; i < 8; ++i) refused();
  EXPECT_GE(free_now() + kDriverSlack, before);
  Engine smaller(dir_->path(), options());
  EXPECT_EQ(smaller.generate({{1, 2, 3}}, request(4))[0].token_ids.size(), 4u);
}

// Somebody else takes the memory after it was found free: what can be taken is taken at once.
TEST_F(CudaMemoryTest, G15_memory_gone_between_check_and_allocation) {
  const std::int64_t before = free_now();
  {
    cuda::DeviceAllocator allocator(0);
    try {
      allocator.set_aside(before + 64 * kMiB, 1);
      FAIL() << "took more than there is";
    } catch (const ResourceError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("cuda:0: memory"), HasSubstr("bytes free of"),
                                      HasSubstr("in one block")));
    }
    EXPECT_GE(free_now() + kDriverSlack, before);
    allocator.set_aside(before / 2, 1);
    EXPECT_LE(free_now(), before - before / 2 + kDriverSlack);
  }
  EXPECT_GE(free_now() + kDriverSlack, before);
}

TEST_F(CudaMemoryTest, blocks_come_from_what_was_set_aside_and_then_from_the_device) {
  cuda::DeviceAllocator allocator(0);
  allocator.set_aside(64 * kMiB, 4);
  const std::int64_t before = free_now();
  Storage first(allocator, 40 * kMiB);
  Storage second(allocator, 24 * kMiB);
  EXPECT_EQ(free_now(), before);
  EXPECT_EQ(allocator.live_bytes(), 64 * kMiB);
  Storage third(allocator, 32 * kMiB);
  EXPECT_LE(free_now(), before - 32 * kMiB);
  third.reset();
  EXPECT_EQ(free_now(), before);
  first.reset();
  Storage again(allocator, 40 * kMiB);
  EXPECT_EQ(free_now(), before);
  EXPECT_EQ(allocator.calls(), 4);
}

// A file that breaks off in its second block, while the first is on its way.
TEST_F(CudaMemoryTest, a_matrix_that_cannot_be_read_leaves_nothing_behind) {
  const std::unique_ptr<Backend> backend = make_cuda_backend({DeviceType::kCuda, 0});
  constexpr std::int64_t kRows = 5000, kCols = 4096;  // two blocks of 16 MiB and more
  bool breaks = true;
  const auto reader = [&](std::int64_t row, std::int64_t, std::span<std::byte> out) {
    if (breaks && row > 0) throw FormatError("broken off");
    std::ranges::fill(out, std::byte{1});
  };
  EXPECT_THROW((void)backend->load_matrix(kRows, kCols, DType::kBF16, reader), FormatError);
  EXPECT_EQ(backend->allocator().live_bytes(), 0);
  breaks = false;
  const Matrix whole = backend->load_matrix(kRows, kCols, DType::kBF16, reader);
  EXPECT_EQ(backend->allocator().live_bytes(), kRows * kCols * 2);
}

// cudaMalloc and cudaFree wait for the device; sequences that come and go make neither.
TEST_F(CudaMemoryTest, sequences_come_and_go_without_the_driver) {
  Engine engine(dir_->path(), options());
  (void)engine.generate({std::vector<std::int32_t>(600, 5)}, request(20));
  const std::int64_t before = free_now();
  const std::int64_t calls = engine.stats().allocations;
  std::int64_t sequences = 0;
  for (const std::int64_t length : {1, 300, 17, 1200, 64}) {
    const std::vector<std::int32_t> prompt(static_cast<std::size_t>(length), 9);
    sequences += static_cast<std::int64_t>(engine.generate({prompt, {3, 4}}, request(9)).size());
    EXPECT_EQ(free_now(), before) << length;
  }
  EXPECT_EQ(engine.stats().allocations - calls, sequences) << "one block for each sequence";
  EXPECT_EQ(engine.memory().kv_cache, 0);
}

TEST_F(CudaMemoryTest, closing_gives_everything_back) {
  { Engine warm(dir_->path(), options()); }
  const std::int64_t before = free_now();
  for (int i = 0; i < 3; ++i) {
    Engine engine(dir_->path(), options());
    EXPECT_LT(free_now(), before);
    engine.close();
    EXPECT_GT(free_now() + kDriverSlack, before);
  }
}

}  // namespace
}  // namespace moa_rt::testing
