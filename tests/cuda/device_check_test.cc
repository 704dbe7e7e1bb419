// G14 without a GPU: devices made up from what a driver may say, and a device that no machine has.
#include "cuda/runtime/device_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cuda/runtime/check.h"
#include "cuda/runtime/device_context.h"
#include "moa_rt/error.h"
#include "ops/backend.h"

namespace moa_rt::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

DeviceFacts hopper() {
  return {.driver_version = 13000,
          .runtime_version = 13000,
          .status = cudaSuccess,
          .count = 2,
          .name = "NVIDIA H100",
          .major = 9,
          .minor = 0,
          .code = cudaSuccess};
}

std::string refusal(const DeviceFacts& facts, int index = 0) {
  try {
    return "accepted: " + judge_device({DeviceType::kCuda, index}, facts);
  } catch (const DeviceError& error) {
    return error.what();
  }
}

TEST(DeviceCheckTest, a_good_device_is_described) {
  EXPECT_EQ(judge_device({DeviceType::kCuda, 1}, hopper()),
            "cuda:1 (NVIDIA H100, compute capability 9.0)");
}

TEST(DeviceCheckTest, G14_no_driver) {
  DeviceFacts facts = hopper();
  facts.driver_version = 0;
  facts.count = 0;
  facts.status = cudaErrorInsufficientDriver;
  EXPECT_THAT(refusal(facts), AllOf(HasSubstr("cuda:0: NVIDIA driver: got none"),
                                    HasSubstr("want one for CUDA 13.0 or later")));
}

TEST(DeviceCheckTest, G14_old_driver) {
  DeviceFacts facts = hopper();
  facts.driver_version = 11080;
  facts.count = 0;
  facts.status = cudaErrorInsufficientDriver;
  EXPECT_THAT(refusal(facts), AllOf(HasSubstr("got one for CUDA 11.8"),
                                    HasSubstr("want one for CUDA 13.0 or later")));
}

// CUDA_VISIBLE_DEVICES empty or naming nothing: the driver has no device to show.
TEST(DeviceCheckTest, G14_no_gpu) {
  DeviceFacts facts = hopper();
  facts.count = 0;
  facts.status = cudaErrorNoDevice;
  EXPECT_THAT(refusal(facts), AllOf(HasSubstr("got cuda:0"), HasSubstr("want a GPU"),
                                    HasSubstr(cudaGetErrorString(cudaErrorNoDevice))));
}

TEST(DeviceCheckTest, G14_index_out_of_range) {
  EXPECT_THAT(refusal(hopper(), 2), AllOf(HasSubstr("got cuda:2"), HasSubstr("cuda:0..cuda:1")));
  DeviceFacts one = hopper();
  one.count = 1;
  EXPECT_THAT(refusal(one, 1), HasSubstr("got cuda:1, want cuda:0"));
}

TEST(DeviceCheckTest, G14_compute_capability_too_low) {
  DeviceFacts facts = hopper();
  facts.name = "Tesla T4";
  facts.major = 7;
  facts.minor = 5;
  EXPECT_THAT(refusal(facts), AllOf(HasSubstr("compute capability: got 7.5, want 8.0 or later"),
                                    HasSubstr("Tesla T4")));
}

TEST(DeviceCheckTest, G14_no_code_for_the_device) {
  DeviceFacts facts = hopper();
  facts.major = 8;
  facts.minor = 6;
  facts.code = cudaErrorNoKernelImageForDevice;
  EXPECT_THAT(refusal(facts), AllOf(HasSubstr("compute capability: got 8.6"),
                                    HasSubstr("-DMOA_RT_CUDA_ARCHITECTURES=86")));
}

// A device in use by others alone, or lost, says so when it is asked for its code.
TEST(DeviceCheckTest, G14_device_that_cannot_be_used) {
  for (const cudaError_t code : {cudaErrorDevicesUnavailable, cudaErrorECCUncorrectable}) {
    DeviceFacts facts = hopper();
    facts.code = code;
    EXPECT_THAT(refusal(facts), HasSubstr(cudaGetErrorString(code)));
  }
}

// What a stream, an event, a graph or page-locked memory may answer when it is made.
TEST(DeviceCheckTest, I2_short_memory_is_told_from_a_broken_device) {
  EXPECT_NO_THROW(check(cudaSuccess, "stream"));
  EXPECT_THROW(check(cudaErrorMemoryAllocation, "stream"), ResourceError);
  for (const cudaError_t status : {cudaErrorIllegalAddress, cudaErrorLaunchTimeout,
                                   cudaErrorECCUncorrectable, cudaErrorLaunchFailure}) {
    try {
      check(status, "graph");
      FAIL() << cudaGetErrorName(status);
    } catch (const DeviceError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("cuda: graph"), HasSubstr(cudaGetErrorName(status)),
                                      HasSubstr(cudaGetErrorString(status))));
    }
  }
}

// Through the driver of whatever machine this is.
TEST(DeviceCheckTest, G14_a_device_that_no_machine_has) {
  EXPECT_THROW((void)make_cuda_backend({DeviceType::kCuda, 1000}), DeviceError);
  EXPECT_THROW(DeviceContext{1000}, DeviceError);
}

}  // namespace
}  // namespace moa_rt::cuda
