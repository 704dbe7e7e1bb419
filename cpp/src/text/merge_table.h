// The merges of a BPE model: pair of ids -> rank and id of the joined token.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer_json.h"
#include "text/vocabulary.h"

namespace moa_rt {

struct Merge {
  std::uint32_t rank;
  std::int32_t id;  // of the joined token; Vocabulary::kNotFound if the pair does not merge
};

class MergeTable {
 public:
  static constexpr std::size_t kMaxMerges = std::size_t{1} << 22;

  // `sides` holds the left and the right token of each merge by turns, in order of rank. Throws
  // FormatError with the index of a merge that names an unknown token, is empty on one side,
  // or whose joined spelling is no token (D3). Of equal pairs the last one counts.
  MergeTable(const StringList& sides, const Vocabulary& vocabulary, const std::string& path);

  Merge find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = pair_key(left, right);
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t slot = hash(key) & mask;; slot = (slot + 1) & mask) {
      if (slots_[slot].key == key) return slots_[slot].merge;
      if (slots_[slot].key == kEmpty) return {0, Vocabulary::kNotFound};
    }
  }
  std::int64_t memory_bytes() const;

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // ids are never negative
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge{0, Vocabulary::kNotFound};
  };

  static std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
           static_cast<std::uint32_t>(right);
  }
  static std::size_t hash(std::uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    return static_cast<std::size_t>(key ^ (key >> 32));
  }
  void insert(std::uint64_t key, Merge merge);

  std::vector<Slot> slots_;  // power of two, at most half full
};

}  // namespace moa_rt
