// Where an output ends: at a stop token, or before a stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moa_rt {

// Stop strings are found in the joined text, however it is cut into pieces. The output ends before
// the occurrence that is complete first; of several complete with the same byte, the longest. Text
// that could be the beginning of a stop string is held back until that is decided.
class StopRules {
 public:
  StopRules() = default;
  // At most 1024 different token ids; at most 64 strings, each valid UTF-8 of 1 byte to 1 KiB.
  // Throws ArgumentError (G7).
  StopRules(std::vector<std::int64_t> token_ids, const std::vector<std::string>& strings);

  std::span<const std::int64_t> token_ids() const { return token_ids_; }  // ascending, distinct
  bool is_stop_token(std::int64_t token) const;

  // The next piece of text in, the text that may be shown out. After a match always empty. Time is
  // linear in the text, for each stop string.
  std::string push(std::string_view piece);
  // Whether a stop string was found: the text before it has all been returned.
  bool matched() const { return matched_; }
  // At the end of the text: what was still held back.
  std::string finish();

 private:
  // Knuth, Morris, Pratt 1977. `border[i]` is the longest proper prefix of text[0..i] that also
  // ends there; `state` is how much of `text` the input so far ends with.
  struct Pattern {
    std::string text;
    std::vector<std::uint32_t> border;
    std::size_t state = 0;
  };
  static Pattern make_pattern(const std::string& text);
  static void advance(Pattern& pattern, char byte);

  std::vector<std::int64_t> token_ids_;
  std::vector<Pattern> patterns_;
  std::string held_;  // what the longest state covers
  bool matched_ = false;
};

}  // namespace moa_rt
