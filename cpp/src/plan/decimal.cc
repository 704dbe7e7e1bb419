#include "plan/decimal.h"

#include <array>
#include <charconv>

namespace moa_rt {

std::string decimal(double value) {
  std::array<char, 32> text;  // the shortest form of a double has at most 24 characters
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value);
  return {text.data(), result.ptr};
}

}  // namespace moa_rt
