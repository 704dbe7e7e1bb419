// Contexts: an engine makes one on its own device and on no other, and leaves none on a thread.
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include "moa_rt/engine.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt::testing {
namespace {

void require(bool good, const std::string& what) {
  if (good) return;
  std::cerr << "not so: " << what << "\n";
  std::exit(1);
}

template <typename Function>
Function* driver_function(const char* name) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  require(library != nullptr, "there is a driver");
  auto* const function = reinterpret_cast<Function*>(dlsym(library, name));
  require(function != nullptr, std::string("the driver has ") + name);
  return function;
}

bool has_context(int device) {
  unsigned flags = 0;
  int active = 0;
  const auto ask =
      driver_function<decltype(cuDevicePrimaryCtxGetState)>("cuDevicePrimaryCtxGetState");
  require(ask(device, &flags, &active) == CUDA_SUCCESS, "the driver knows the state");
  return active != 0;
}

bool thread_has_context() {
  CUcontext current = nullptr;
  const auto ask = driver_function<decltype(cuCtxGetCurrent)>("cuCtxGetCurrent");
  require(ask(&current) == CUDA_SUCCESS, "the driver knows the thread's context");
  return current != nullptr;
}

// The last device of this machine, be it the only one.
void use_an_engine() {
  int count = 0;
  require(cudaGetDeviceCount(&count) == cudaSuccess && count > 0, "there is a device");
  TempDir dir;
  write_tiny_model(dir.path());
  EngineOptions options;
  options.device = "cuda:" + std::to_string(count - 1);
  options.dtype = "bfloat16";
  options.max_seq_len = 1024;
  {
    Engine engine(dir.path(), options);
    require(engine.generate({{1, 2, 3}}, RequestOptions{}).size() == 1, "the engine works");
    require(has_context(count - 1), "the engine's device has a context");
    std::thread([&] {
      (void)engine.memory();
      require(!thread_has_context(), "a thread that asks is left as it was");
    }).join();
  }
  require(!thread_has_context(), "the thread that had the engine is left as it was");
  for (int device = 0; device + 1 < count; ++device) {
    require(!has_context(device), "no context on device " + std::to_string(device));
  }
}

// In a process of its own: in this one other tests may have used the runtime.
TEST(CudaContextTest, an_engine_makes_no_context_but_its_own) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT((use_an_engine(), std::exit(0)), ::testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace moa_rt::testing
