#include "text/merge_table.h"

#include <bit>

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/component.h"

namespace moa_rt {
namespace {

class MergeChecker {
 public:
  MergeChecker(const Vocabulary& vocabulary, const std::string& path)
      : vocabulary_(vocabulary), path_(path) {}

  std::int32_t id(std::string_view token, std::size_t index) const {
    if (token.empty()) fail(index, "an empty side", "two tokens");
    const std::int32_t found = vocabulary_.find_in_model(token);
    if (found == Vocabulary::kNotFound) {
      fail(index, quote_name(token), "a token of the vocabulary");
    }
    return found;
  }

 private:
  [[noreturn]] void fail(std::size_t index, const std::string& got, const std::string& want) const {
    throw FormatError(describe(
        {.file = path_, .item = "merge " + std::to_string(index), .got = got, .want = want}));
  }
  const Vocabulary& vocabulary_;
  const std::string& path_;
};

}  // namespace

MergeTable::MergeTable(const StringList& sides, const Vocabulary& vocabulary,
                       const std::string& path) {
  const std::size_t count = sides.size() / 2;
  if (count > kMaxMerges) {
    throw FormatError(describe({.file = path,
                                .item = "merge " + std::to_string(kMaxMerges),
                                .got = std::to_string(count) + " merges",
                                .want = "at most " + std::to_string(kMaxMerges)}));
  }
  slots_.resize(std::bit_ceil(count * 2 + 1));
  const MergeChecker checker(vocabulary, path);
  std::string joined;
  for (std::size_t index = 0; index < count; ++index) {
    const std::string_view left = sides[2 * index];
    const std::string_view right = sides[2 * index + 1];
    const std::int32_t left_id = checker.id(left, index);
    const std::int32_t right_id = checker.id(right, index);
    joined.assign(left).append(right);
    insert(pair_key(left_id, right_id),
           {static_cast<std::uint32_t>(index), checker.id(joined, index)});
  }
}

void MergeTable::insert(std::uint64_t key, Merge merge) {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = hash(key) & mask;
  while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask;
  slots_[slot] = {key, merge};
}

std::int64_t MergeTable::memory_bytes() const {
  return static_cast<std::int64_t>(slots_.capacity() * sizeof(Slot));
}

}  // namespace moa_rt
