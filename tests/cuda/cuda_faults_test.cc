// G16: a lost device. The fault is real, so each test loses it in a process of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>

#include "moa_rt/engine.h"
#include "moa_rt/error.h"
#include "support/faults.h"
#include "support/temp_dir.h"
#include "support/tiny_model.h"

namespace moa_rt::testing {
namespace {

EngineOptions on_gpu() {
  EngineOptions options;
  options.device = "cuda";
  options.dtype = "bfloat16";
  options.max_seq_len = 1024;
  return options;
}

std::string device_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const DeviceError& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another error: ") + error.what();
  }
  return "no error";
}

void require(bool good, const std::string& what) {
  if (good) return;
  std::cerr << "not so: " << what << "\n";
  std::exit(1);
}

class CudaFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

void use_a_lost_device() {
  TempDir dir;
  write_tiny_model(dir.path());
  Engine engine(dir.path(), on_gpu());
  require(engine.generate({{1, 2, 3}}, RequestOptions{}).size() == 1, "the engine works");
  const SessionId session = engine.open_session(100);
  const RequestId request = engine.submit({4, 5, 6}, {});
  lose_device();

  const std::string first = device_error([&] { engine.step(); });
  require(first.find("cuda:0: got lost") != std::string::npos, "the device is named: " + first);
  const std::vector<std::function<void()>> calls = {
      [&] { engine.step(); },
      [&] { engine.generate({{1, 2, 3}}, RequestOptions{}); },
      [&] { engine.submit({1, 2}, {}); },
      [&] { engine.score({1, 2, 3}); },
      [&] { engine.open_session(10); },
      [&] { engine.close_session(session); },
      [&] { engine.memory(); }};
  for (const auto& call : calls) {
    const std::string again = device_error(call);
    require(again == first, "every later call fails the same way: " + again);
  }
  engine.cancel(request);
  engine.close();
  require(engine.closed(), "closing works");
  const std::string reopened = device_error([&] { Engine(dir.path(), on_gpu()); });
  require(reopened.find("cuda") != std::string::npos, "opening again says why not: " + reopened);
  EngineOptions on_cpu = on_gpu();
  on_cpu.device = "cpu";
  require(Engine(dir.path(), on_cpu).generate({{1, 2, 3}}, RequestOptions{}).size() == 1,
          "the CPU still works");
}

TEST_F(CudaFaultsTest, G16_a_lost_device_fails_every_call_alike_and_can_be_closed) {
  EXPECT_EXIT((use_a_lost_device(), std::exit(0)), ::testing::ExitedWithCode(0), "");
}

// The destructor is all that is left of an engine whose owner gave up.
void destroy_on_a_lost_device() {
  TempDir dir;
  write_tiny_model(dir.path());
  {
    Engine engine(dir.path(), on_gpu());
    engine.submit({4, 5, 6}, {});
    engine.step();
    lose_device();
  }
}

TEST_F(CudaFaultsTest, G16_destroying_an_engine_on_a_lost_device_is_quiet) {
  EXPECT_EXIT((destroy_on_a_lost_device(), std::exit(0)), ::testing::ExitedWithCode(0), "^$");
}

}  // namespace
}  // namespace moa_rt::testing
