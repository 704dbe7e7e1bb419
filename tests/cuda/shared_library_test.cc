// A library opened on demand; here one that every machine has.
#include "cuda/runtime/shared_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "moa_rt/error.h"

namespace moa_rt::testing {
namespace {

using ::testing::HasSubstr;

TEST(SharedLibraryTest, a_function_is_found_and_works) {
  double (*cosine)(double) = nullptr;
  cuda::SharedLibrary("maths", "libm.so.6", "none").find("cos", cosine);
  ASSERT_NE(cosine, nullptr);
  EXPECT_EQ(cosine(1.0), std::cos(1.0));
}

TEST(SharedLibraryTest, what_is_not_there_is_named) {
  try {
    cuda::SharedLibrary("maths", "libnowhere.so.7", "no library", ", as in a toolkit");
    FAIL() << "opened";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("maths: got no library, want libnowhere.so.7, as in a toolkit"));
  }
  void (*function)() = nullptr;
  try {
    cuda::SharedLibrary("maths", "libm.so.6", "none").find("moa_nothing", function);
    FAIL() << "found";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("maths: moa_nothing: got not in the library"));
  }
}

}  // namespace
}  // namespace moa_rt::testing
