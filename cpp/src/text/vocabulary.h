// Token strings and their ids, in one arena.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moa_rt {

// One entry of a tokenizer file, before ids are checked.
struct VocabularyEntry {
  std::string_view text;  // outlives the construction of the vocabulary
  std::int64_t id;
};

// Immutable map between token strings and ids 0..size()-1. Strings are found by open addressing
// over ids, so a token costs its bytes, 9 bytes of tables and at most 16 bytes of hash slots.
class Vocabulary {
 public:
  static constexpr std::size_t kMaxTokens = std::size_t{1} << 22;
  static constexpr std::int32_t kNotFound = -1;

  // `model` are the tokens that the BPE model may produce, `added` those only found by their own
  // spelling. Throws FormatError if the ids are not exactly 0..n-1, each once, or a spelling occurs
  // twice (D4).
  Vocabulary(const std::vector<VocabularyEntry>& model, const std::vector<VocabularyEntry>& added,
             const std::string& path);

  std::int64_t size() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
  bool contains(std::int64_t id) const { return id >= 0 && id < size(); }
  std::string_view text(std::int32_t id) const {
    const auto index = static_cast<std::size_t>(id);
    return std::string_view(arena_).substr(begins_[index], begins_[index + 1] - begins_[index]);
  }
  // Id of any token, or of a token of the model only; kNotFound if there is none.
  std::int32_t find(std::string_view text) const;
  std::int32_t find_in_model(std::string_view text) const {
    const std::int32_t id = find(text);
    return id >= 0 && in_model_[static_cast<std::size_t>(id)] != 0 ? id : kNotFound;
  }
  std::int64_t memory_bytes() const;

 private:
  void index_strings(const std::string& path);

  std::string arena_;                   // all strings in order of id
  std::vector<std::uint32_t> begins_;   // size() + 1 offsets into the arena
  std::vector<std::uint8_t> in_model_;  // one flag per id
  std::vector<std::int32_t> slots_;     // power of two; kNotFound is empty
};

}  // namespace moa_rt
