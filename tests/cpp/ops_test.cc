// The checks of ops.h, and what a backend says about itself.
#include "ops/ops.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

#include "cache/kv_cache.h"
#include "cpu/isa.h"
#include "cpu/memory_limit.h"
#include "support/backends.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

using moa_rt::testing::expect_error;

class OpsTest : public ::testing::Test {
 protected:
  static Tensor tensor(std::int64_t rows, std::int64_t cols) {
    return Tensor::allocate(*memory(), DType::kF32, {rows, cols});
  }
  static Tensor vector(std::int64_t count) {
    return Tensor::allocate(*memory(), DType::kF32, {count});
  }
  static Allocator* memory() {
    static const std::unique_ptr<Allocator> allocator = make_host_allocator();
    return allocator.get();
  }
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1, "portable");
};

TEST_F(OpsTest, G2_tokens_outside_the_table) {
  const Matrix table = load_matrix(*backend_, random_floats(8 * 4, 1), 8, 4, DType::kF32);
  Tensor out = tensor(1, 4);
  for (const std::int32_t token : {-1, 8, 2147483647}) {
    expect_error<ArgumentError>([&] { ops::embed(*backend_, table, {&token, 1}, out); },
                                {"embed", "token", std::to_string(token), "[0, 8)"});
  }
}

TEST_F(OpsTest, wrong_shapes_name_the_operation_and_both_shapes) {
  const Matrix weight = load_matrix(*backend_, random_floats(8 * 4, 1), 8, 4, DType::kF32);
  Tensor x = tensor(2, 4), wide = tensor(2, 5), out = tensor(2, 8);
  const Tensor norm = vector(5), bias = vector(7);
  expect_error<ArgumentError>([&] { ops::matmul(*backend_, wide, weight, nullptr, false, out); },
                              {"matmul", "x", "(2, 5)", "4"});
  expect_error<ArgumentError>([&] { ops::matmul(*backend_, x, weight, nullptr, false, wide); },
                              {"matmul", "out", "(2, 5)", "(2, 8)"});
  expect_error<ArgumentError>([&] { ops::matmul(*backend_, x, weight, &bias, false, out); },
                              {"matmul", "bias", "(7)", "(8)"});
  expect_error<ArgumentError>([&] { ops::matmul(*backend_, x, Matrix(), nullptr, false, out); },
                              {"matmul", "weight", "empty"});
  expect_error<ArgumentError>([&] { ops::rms_norm(*backend_, x, norm, 1e-6, x); },
                              {"rms_norm", "weight", "(5)", "(4)"});
  expect_error<ArgumentError>([&] { ops::silu_mul(*backend_, wide, x); },
                              {"silu_mul", "gate_up", "(2, 5)", "(2, 8)"});
  const std::int64_t row = 2;
  Tensor one = tensor(1, 4);
  expect_error<ArgumentError>([&] { ops::gather_rows(*backend_, x, {&row, 1}, one); },
                              {"gather_rows", "row", "got 2", "[0, 2)"});
}

TEST_F(OpsTest, fused_operations_name_what_does_not_fit) {
  const Matrix gate_up = load_matrix(*backend_, random_floats(6 * 4, 1), 6, 4, DType::kF32);
  const Matrix down = load_matrix(*backend_, random_floats(4 * 3, 2), 4, 3, DType::kF32);
  const Matrix wide = load_matrix(*backend_, random_floats(4 * 2, 2), 4, 2, DType::kF32);
  Tensor x = tensor(2, 4), normed = tensor(2, 4), rows = tensor(2, 6), gated = tensor(2, 3);
  const Tensor norm = vector(4), short_norm = vector(3);
  expect_error<ArgumentError>(
      [&] { ops::norm_matmul(*backend_, x, {&short_norm, 1e-6}, gate_up, nullptr, normed, rows); },
      {"norm_matmul", "norm.weight", "(3)", "(4)"});
  expect_error<ArgumentError>(
      [&] { ops::norm_matmul(*backend_, x, {nullptr, 1e-6}, gate_up, nullptr, normed, rows); },
      {"norm_matmul", "norm.weight", "none"});
  expect_error<ArgumentError>(
      [&] { ops::norm_matmul(*backend_, x, {&norm, 1e-6}, gate_up, nullptr, rows, rows); },
      {"norm_matmul", "normed", "(2, 6)", "(2, 4)"});
  const Backend::MlpArgs good{.norm = {&norm, 1e-6},
                              .gate_up = &gate_up,
                              .down = &down,
                              .normed = &normed,
                              .gate_up_rows = &rows,
                              .gated = &gated};
  Backend::MlpArgs bad = good;
  bad.down = &wide;
  expect_error<ArgumentError>([&] { ops::mlp(*backend_, bad, x); },
                              {"mlp", "gate_up.rows", "got 6", "want 4"});
  bad = good;
  bad.gate_up = nullptr;
  expect_error<ArgumentError>([&] { ops::mlp(*backend_, bad, x); }, {"mlp", "gate_up", "empty"});
  bad = good;
  bad.gated = nullptr;
  expect_error<ArgumentError>([&] { ops::mlp(*backend_, bad, x); }, {"mlp", "scratch", "none"});
  bad = good;
  bad.normed = &x;
  expect_error<ArgumentError>([&] { ops::mlp(*backend_, bad, x); },
                              {"mlp", "normed", "the memory of x"});
}

// By definition, in the layout of the weights: gate rows first.
TEST_F(OpsTest, mlp_equals_its_definition) {
  const std::int64_t width = 5, inner = 3;
  backend_->reserve({.attention = {.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 8},
                     .max_rows = 2,
                     .max_sequences = 1,
                     .max_seq_len = 8,
                     .max_matrix_cols = width});
  const std::vector<float> g = random_floats(2 * inner * width, 3);
  const std::vector<float> d = random_floats(width * inner, 4);
  const std::vector<float> start = random_floats(2 * width, 5);
  const std::vector<float> scale = random_floats(width, 6);
  const Matrix gate_up = load_matrix(*backend_, g, 2 * inner, width, DType::kF32);
  const Matrix down = load_matrix(*backend_, d, width, inner, DType::kF32);
  Tensor x = tensor(2, width), normed = tensor(2, width), rows = tensor(2, 2 * inner),
         gated = tensor(2, inner), norm = vector(width);
  std::ranges::copy(start, x.data<float>());
  std::ranges::copy(scale, norm.data<float>());
  ops::mlp(*backend_,
           {.norm = {&norm, 1e-6},
            .gate_up = &gate_up,
            .down = &down,
            .normed = &normed,
            .gate_up_rows = &rows,
            .gated = &gated},
           x);
  for (std::size_t r = 0; r < 2; ++r) {
    double squares = 0.0;
    for (std::size_t k = 0; k < 5; ++k) squares += std::pow(start[r * 5 + k], 2);
    std::vector<double> product(6, 0.0);
    for (std::size_t n = 0; n < 6; ++n) {
      for (std::size_t k = 0; k < 5; ++k) {
        product[n] += start[r * 5 + k] / std::sqrt(squares / 5.0 + 1e-6) * scale[k] * g[n * 5 + k];
      }
    }
    for (std::size_t k = 0; k < 5; ++k) {
      double want = start[r * 5 + k];
      for (std::size_t i = 0; i < 3; ++i) {
        want += product[i] / (1.0 + std::exp(-product[i])) * product[i + 3] * d[k * 3 + i];
      }
      EXPECT_NEAR(x.data<float>()[r * 5 + k], want, 1e-5);
    }
  }
}

TEST_F(OpsTest, C7_epsilon_outside_its_range) {
  Tensor x = tensor(1, 4);
  const Tensor weight = vector(4);
  for (const double eps : {-1e-6, 1e30, std::numeric_limits<double>::quiet_NaN()}) {
    expect_error<ArgumentError>([&] { ops::rms_norm(*backend_, x, weight, eps, x); },
                                {"rms_norm", "eps"});
  }
}

TEST_F(OpsTest, slices_that_do_not_fit_the_step) {
  const AttentionShape shape{.num_query_heads = 2, .num_kv_heads = 1, .head_dim = 8};
  const std::vector<HeadSpan> spans{{0, 8}};
  KVCache cache(backend_->allocator(), CacheLayout({spans}, 8, DType::kF32));
  Tensor qkv = tensor(3, 32), out = tensor(3, 16);
  const auto attend = [&](SequenceSlice slice, std::int64_t layer = 0) {
    ops::attention(*backend_, {.shape = shape, .layer = layer, .slices = {&slice, 1}}, qkv, out);
  };
  const SequenceSlice good{.cache = &cache, .row = 0, .count = 3, .position = 0};
  SequenceSlice bad = good;
  bad.cache = nullptr;
  expect_error<ArgumentError>([&] { attend(bad); }, {"attention", "slice.cache"});
  bad = good;
  bad.count = 2;
  expect_error<ArgumentError>([&] { attend(bad); }, {"rows of all slices", "got 2", "want 3"});
  bad = good;
  bad.row = 1;
  expect_error<ArgumentError>([&] { attend(bad); }, {"slice.row", "got 1", "want 0"});
  bad = good;
  bad.position = 4;
  expect_error<ArgumentError>([&] { attend(bad); }, {"slice.position", "got 4", "want 0"});
  expect_error<ArgumentError>([&] { attend(good, 1); }, {"layer", "got 1", "[0, 1)"});
  // A step that no workspace was reserved for.
  expect_error<InternalError>([&] { attend(good); }, {"workspace", "reserve()"});
}

TEST_F(OpsTest, H8_positions_beyond_the_rope_table) {
  const AttentionShape shape{.num_query_heads = 1, .num_kv_heads = 1, .head_dim = 8};
  const std::vector<HeadSpan> spans{{0, 8}};
  KVCache cache(backend_->allocator(), CacheLayout({spans}, 8, DType::kF32));
  cache.advance(4);
  Tensor qkv = tensor(1, 24);
  const RopeTable rope{tensor(4, 4), tensor(4, 4)};
  const SequenceSlice slice{.cache = &cache, .row = 0, .count = 1, .position = 4};
  expect_error<ArgumentError>(
      [&] {
        ops::rope_append(*backend_, {.shape = shape, .slices = {&slice, 1}, .rope = &rope}, qkv);
      },
      {"rope_append", "last position", "got 4", "[0, 4)"});
}

TEST(CpuBackend, says_what_it_is) {
  EXPECT_EQ(make_cpu_backend(2, "portable")->description(), "cpu (portable, 2 threads)");
  EXPECT_EQ(make_cpu_backend(1, "portable")->description(), "cpu (portable, 1 thread)");
  const auto backend = make_cpu_backend(1);
  EXPECT_EQ(backend->device(), Device{});
  EXPECT_TRUE(backend->supports(DType::kF32) && backend->supports(DType::kBF16));
  EXPECT_FALSE(backend->supports(DType::kF16));
}

TEST(CpuBackend, C6_head_dims) {
  const auto backend = make_cpu_backend(1);
  for (const std::int64_t good : {8, 16, 64, 80, 96, 128, 256}) {
    EXPECT_TRUE(backend->supports_head_dim(good)) << good;
  }
  for (const std::int64_t bad : {-8, 0, 4, 12, 100, 264}) {
    EXPECT_FALSE(backend->supports_head_dim(bad)) << bad;
  }
}

TEST(CpuBackend, refuses_threads_and_instruction_sets_by_name) {
  for (const int threads : {-1, 0, 1025}) {
    expect_error<ArgumentError>([&] { (void)make_cpu_backend(threads); },
                                {"num_threads", std::to_string(threads)});
  }
  expect_error<ArgumentError>([] { (void)make_cpu_backend(1, "sse9"); }, {"isa", "sse9", "avx2"});
  for (const char* isa : {"avx2", "avx512", "avx512_bf16"}) {
    const auto& found = runnable_isas();
    if (std::ranges::find(found, isa) != found.end()) continue;
    expect_error<UnsupportedError>([&] { (void)make_cpu_backend(1, isa); }, {isa, "portable"});
  }
}

TEST(CpuBackend, auto_takes_the_best_available) {
  EXPECT_EQ(make_cpu_backend(1, "auto")->description(),
            "cpu (" + runnable_isas().back() + ", 1 thread)");
  EXPECT_EQ(available_isas(), runnable_isas());
}

TEST(CpuBackend, G14_a_build_without_cuda_says_so) {
  expect_error<DeviceError>([] { (void)make_cuda_backend({DeviceType::kCuda, 0}); },
                            {"cuda:0", "no CUDA"});
}

// I1: what is free is the least of what the system, the cgroups and the process limit leave.
class MemoryLimitTest : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = dir_.path() + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }
  moa_rt::testing::TempDir dir_;
};

TEST_F(MemoryLimitTest, I1_system_memory) {
  write("/proc/meminfo", "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable: 5000 kB\n");
  EXPECT_EQ(free_host_bytes(dir_.path()), 5000 * 1024);
}

TEST_F(MemoryLimitTest, I1_cgroup_2_of_any_level) {
  write("/proc/meminfo", "MemAvailable: 5000 kB\n");
  write("/proc/self/cgroup", "0::/outer/inner\n");
  write("/sys/fs/cgroup/outer/inner/memory.max", "max\n");
  write("/sys/fs/cgroup/outer/inner/memory.current", "500000\n");
  EXPECT_EQ(free_host_bytes(dir_.path()), 5000 * 1024);
  write("/sys/fs/cgroup/outer/memory.max", "1000000\n");
  write("/sys/fs/cgroup/outer/memory.current", "600000\n");
  EXPECT_EQ(free_host_bytes(dir_.path()), 400000);
  write("/sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 50000\n");
  EXPECT_EQ(free_host_bytes(dir_.path()), 450000);
  write("/sys/fs/cgroup/outer/memory.current", "2000000\n");
  EXPECT_EQ(free_host_bytes(dir_.path()), 0);
}

TEST_F(MemoryLimitTest, I1_cgroup_1_and_a_container_that_sees_only_its_own) {
  write("/proc/meminfo", "MemAvailable: 5000 kB\n");
  write("/proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n");
  write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
  EXPECT_EQ(free_host_bytes(dir_.path()), 2000000);
}

TEST_F(MemoryLimitTest, I1_address_space_limit) {
  write("/proc/meminfo", "MemAvailable: 500000000000 kB\n");
  write("/proc/self/statm", "1000 1 1\n");
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &old), 0);
  rlimit limit = old;
  limit.rlim_cur = rlim_t{1} << 45;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  const std::int64_t free = free_host_bytes(dir_.path());
  ASSERT_EQ(setrlimit(RLIMIT_AS, &old), 0);
  EXPECT_EQ(free, (std::int64_t{1} << 45) - 1000 * sysconf(_SC_PAGESIZE));
}

}  // namespace
}  // namespace moa_rt
