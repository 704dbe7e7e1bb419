// Arena: which bytes of one block are given out. Only numbers: the block itself is its owner's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace moa_rt {

class Arena {
 public:
  // Offsets are multiples of `alignment`, a power of two.
  Arena(std::int64_t capacity, std::int64_t alignment)
      : capacity_(capacity), alignment_(alignment) {}

  // The smallest hole that fits, the first of equals: long blocks find room when short ones come
  // and go. Nothing if there is none.
  std::optional<std::int64_t> allocate(std::int64_t bytes);
  // Of a block that allocate() gave out; false, and nothing happens, if there is none. Neighbouring
  // holes are one again.
  bool release(std::int64_t offset) noexcept { return ends_.erase(offset) != 0; }

  std::int64_t capacity() const { return capacity_; }
  std::int64_t largest_hole() const;

 private:
  template <typename Visit>
  void for_each_hole(const Visit& visit) const;

  std::int64_t capacity_;
  std::int64_t alignment_;
  std::map<std::int64_t, std::int64_t> ends_;  // of each block, by where it begins
};

}  // namespace moa_rt
