// tokenizer.json read in one pass. The vocabulary and the merges, nearly all of the file, go
// straight into arenas: as a document they would take ten times their size and stay in the heap.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace moa_rt {

// Strings one after the other in one block.
class StringList {
 public:
  void add(std::string_view text) {
    arena_ += text;
    ends_.push_back(arena_.size());
  }
  std::size_t size() const { return ends_.size(); }
  std::string_view operator[](std::size_t index) const {
    const std::size_t begin = index == 0 ? 0 : ends_[index - 1];
    return std::string_view(arena_).substr(begin, ends_[index] - begin);
  }

 private:
  std::string arena_;
  std::vector<std::size_t> ends_;
};

struct TokenizerJson {
  Json document;                  // without model.vocab and model.merges
  bool has_vocabulary = false;    // model.vocab was there, and an object
  bool has_merges = false;        // model.merges was there, and an array
  StringList tokens;              // of model.vocab, as written
  std::vector<std::int32_t> ids;  // of `tokens`
  StringList merges;              // left and right side by turns
};

// Throws FormatError for anything that is not one JSON object, for a duplicate key, for more than
// 16 levels, and for an entry of the vocabulary or the merges that is not of their form.
TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& path);

}  // namespace moa_rt
