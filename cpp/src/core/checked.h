// Arithmetic on sizes that come from outside: every overflow is an error, never a wrap.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>

namespace moa_rt {

// An unsigned 64-bit size that has been computed without overflow, or the knowledge that it was
// not.
class CheckedSize {
 public:
  constexpr CheckedSize(std::uint64_t value) : value_(value) {}  // NOLINT: implicit on purpose

  constexpr bool valid() const { return valid_; }
  // The value; only for a valid size.
  constexpr std::uint64_t value() const { return value_; }
  constexpr bool operator==(std::uint64_t other) const { return valid_ && value_ == other; }

  friend constexpr CheckedSize operator+(CheckedSize a, CheckedSize b) {
    if (!a.valid_ || !b.valid_ || a.value_ > kMax - b.value_) return invalid();
    return {a.value_ + b.value_};
  }
  friend constexpr CheckedSize operator*(CheckedSize a, CheckedSize b) {
    if (!a.valid_ || !b.valid_) return invalid();
    if (b.value_ != 0 && a.value_ > kMax / b.value_) return invalid();
    return {a.value_ * b.value_};
  }

 private:
  static constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  static constexpr CheckedSize invalid() {
    CheckedSize size(0);
    size.valid_ = false;
    return size;
  }
  std::uint64_t value_;
  bool valid_ = true;  // a plain flag: gcc 12 warns about a reset std::optional here
};

}  // namespace moa_rt
