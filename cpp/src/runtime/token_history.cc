#include "runtime/token_history.h"

#include <algorithm>
#include <bit>

namespace moa_rt {

// The token's slot, or the free one where it belongs. Never more than half of the table is in use.
std::size_t TokenHistory::slot_of_token(std::int32_t token) const {
  const std::size_t mask = table_.size() - 1;
  // Multiplicative hashing: neighbouring ids, which texts favour, do not cluster.
  const std::uint64_t mixed = static_cast<std::uint32_t>(token) * 0x9e3779b97f4a7c15ULL;
  std::size_t slot = static_cast<std::size_t>(mixed >> 32) & mask;
  while (table_[slot] != 0 && entries_[table_[slot] - 1].token != token) slot = (slot + 1) & mask;
  return slot;
}

void TokenHistory::reserve(std::int64_t tokens) {
  constexpr std::int64_t kMostTokens = std::int64_t{1} << 20;  // the largest vocabulary
  const auto room = static_cast<std::size_t>(std::clamp<std::int64_t>(tokens, 8, kMostTokens));
  if (table_.size() >= 2 * room) return;
  entries_.reserve(room);
  table_.assign(std::bit_ceil(2 * room), 0);
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    table_[slot_of_token(entries_[i].token)] = static_cast<std::uint32_t>(i + 1);
  }
}

TokenHistory::Entry& TokenHistory::find_or_add(std::int32_t token) {
  if (table_.empty()) reserve(1);
  std::size_t slot = slot_of_token(token);
  if (table_[slot] != 0) return entries_[table_[slot] - 1];
  if (2 * (entries_.size() + 1) > table_.size()) {
    reserve(static_cast<std::int64_t>(2 * (entries_.size() + 1)));
    slot = slot_of_token(token);
  }
  entries_.push_back({.token = token});
  table_[slot] = static_cast<std::uint32_t>(entries_.size());
  return entries_.back();
}

}  // namespace moa_rt
