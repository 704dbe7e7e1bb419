// Which tokens a request has seen, for penalties.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/decode_loop.h"

namespace moa_rt {

// A set of distinct tokens with counts. Adding to it allocates nothing within what was reserved.
class TokenHistory {
 public:
  using Entry = SeenToken;

  // Room for `tokens` tokens, all of them different.
  void reserve(std::int64_t tokens);
  void add_prompt(std::int32_t token) { find_or_add(token); }
  void add_output(std::int32_t token) { ++find_or_add(token).output_count; }

  // In order of first appearance.
  std::span<const Entry> entries() const { return entries_; }

 private:
  Entry& find_or_add(std::int32_t token);
  std::size_t slot_of_token(std::int32_t token) const;

  std::vector<Entry> entries_;
  std::vector<std::uint32_t> table_;  // open addressing: index into entries_ + 1, 0 free
};

}  // namespace moa_rt
