// Tokens that are cut out of a text by their spelling before the model sees it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moa_rt {

// Bytes that a string holds outside itself.
inline std::size_t heap_bytes(const std::string& text) {
  const std::size_t inside = std::string().capacity();
  return text.capacity() > inside ? text.capacity() + 1 : 0;
}

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space on its left with it
  bool rstrip = false;
  bool normalized = false;  // looked for after normalisation, in its own normalised form
  bool special = false;
};

// A part of a text: an added token, or text between them.
struct TextSegment {
  static constexpr std::int32_t kText = -1;
  std::string_view text;
  std::int32_t id = kText;
  bool at_start = false;  // begins where the whole text begins
};

// Finds a fixed set of spellings, leftmost first and the longest of those. Time is linear in the
// text times the longest spelling, which the loader bounds.
class AddedTokenMatcher {
 public:
  static constexpr std::size_t kMaxContentBytes = 1024;

  AddedTokenMatcher() = default;
  // `spellings[i]` stands for `tokens[i]`; of equal spellings the first counts.
  AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& spellings);

  bool empty() const { return tokens_.empty(); }
  // Appends the segments of `text`, none of them empty text. Special tokens are text unless
  // `allow_special`.
  void split(std::string_view text, bool at_start, bool allow_special,
             std::vector<TextSegment>& segments) const;
  std::int64_t memory_bytes() const;

 private:
  struct Node {
    std::int32_t token = -1;  // index of the token that ends here
    std::int32_t first_child = -1;
    std::int32_t next_sibling = -1;
    char byte = 0;
  };
  struct Match {
    std::int32_t token = -1;
    std::size_t end = 0;
  };

  void insert(std::string_view spelling, std::int32_t token);
  std::int32_t child(std::int32_t node, char byte) const;
  Match match_at(std::string_view text, std::size_t position, bool allow_special) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;                // a trie; node 0 is the root and has no sibling list
  std::array<std::int32_t, 256> roots_{};  // children of the root, 0 for none
};

}  // namespace moa_rt
