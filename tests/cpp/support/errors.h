// Matchers for thrown errors: the class and words of the message, together.
#pragma once

#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "moa_rt/error.h"

namespace moa_rt::testing {

// Runs `body`, which must throw Expected with every one of `words` in its text. Returns the text.
template <typename Expected, typename Body>
std::string expect_error(Body&& body, const std::vector<std::string>& words) {
  try {
    body();
  } catch (const Expected& error) {
    const std::string text = error.what();
    for (const std::string& word : words) EXPECT_THAT(text, ::testing::HasSubstr(word));
    EXPECT_LT(text.size(), 8192u) << "a message must not repeat a hostile input";
    return text;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error was thrown: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace moa_rt::testing
