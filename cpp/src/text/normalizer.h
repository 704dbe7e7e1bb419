// The component "normalizer" of tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace moa_rt {

// NFC, Prepend and Replace (of a fixed string), alone or in a Sequence.
class Normalizer {
 public:
  // `component` may be null. Throws UnsupportedError naming any other type (D1).
  static Normalizer parse(const Json& component, const std::string& path);

  bool is_identity() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;

 private:
  enum class Kind { kNfc, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from;  // kReplace
    std::string to;    // kReplace, kPrepend
  };
  void add_step(const Json& component, const std::string& path);

  std::vector<Step> steps_;
};

// Every occurrence of `from` (not empty), left to right, without overlap.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

}  // namespace moa_rt
