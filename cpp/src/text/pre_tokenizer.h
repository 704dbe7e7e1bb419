// The component "pre_tokenizer" of tokenizer.json: text into the pieces that BPE never joins.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/bpe.h"
#include "text/scanners.h"

namespace moa_rt {

// Digits, Split (known patterns), ByteLevel and Metaspace, alone or in a Sequence whose last part
// may be ByteLevel or Metaspace.
class PreTokenizer {
 public:
  // Reused between segments. The pieces point into the text given or into `buffer`.
  struct Scratch {
    std::string buffer;
    std::vector<std::string_view> pieces;
    std::vector<std::string_view> parts;
  };

  // `component` may be null: then a text is one piece. Throws UnsupportedError naming any other
  // type or pattern (D1).
  static PreTokenizer parse(const Json& component, const std::string& path);

  BpeUnit unit() const { return unit_; }
  // Fills scratch.pieces with the non-empty pieces of `text`; `at_start` says that it begins the
  // whole text.
  void split(std::string_view text, bool at_start, Scratch& scratch) const;

 private:
  enum class PrefixScheme { kNever, kFirst, kAlways };

  void add_part(const Json& component, const std::string& path);
  void add_split(const JsonObject& object);
  void add_byte_level(const JsonObject& object);
  void add_metaspace(const JsonObject& object);

  std::vector<Scanner> scanners_;  // applied one after the other to every piece
  BpeUnit unit_ = BpeUnit::kCharacter;
  bool last_ = false;  // no part may follow
  // What is put before a text that does not begin with it, and when.
  std::string prefix_;
  PrefixScheme prefix_scheme_ = PrefixScheme::kNever;
  std::string space_replacement_;  // Metaspace: stands for ' '; empty otherwise
  bool split_before_replacement_ = false;
};

}  // namespace moa_rt
