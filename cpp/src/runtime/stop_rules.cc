#include "runtime/stop_rules.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

constexpr std::size_t kMaxTokenIds = 1024;
constexpr std::size_t kMaxStrings = 64;
constexpr std::size_t kMaxStringBytes = 1024;

void check_count(const char* field, std::size_t got, std::size_t most) {
  if (got <= most) return;
  throw ArgumentError(describe({.field = field,
                                .got = std::to_string(got) + " entries",
                                .want = "at most " + std::to_string(most)}));
}

// A stop string of whole characters starts where a character starts, so no output is cut inside
// one.
bool is_utf8(const std::string& text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t used = utf8proc_iterate(bytes, left, &code_point);
    if (used < 1) return false;
    bytes += used;
    left -= used;
  }
  return true;
}

void check_string(const std::string& text, std::size_t index) {
  const std::string item = "stop string " + std::to_string(index);
  if (text.empty() || text.size() > kMaxStringBytes) {
    throw ArgumentError(describe({.field = item,
                                  .got = std::to_string(text.size()) + " bytes",
                                  .want = "1.." + std::to_string(kMaxStringBytes)}));
  }
  if (is_utf8(text)) return;
  throw ArgumentError(describe({.field = item, .got = "broken UTF-8", .want = "valid UTF-8"}));
}

}  // namespace

StopRules::StopRules(std::vector<std::int64_t> token_ids, const std::vector<std::string>& strings)
    : token_ids_(std::move(token_ids)) {
  std::sort(token_ids_.begin(), token_ids_.end());
  token_ids_.erase(std::unique(token_ids_.begin(), token_ids_.end()), token_ids_.end());
  check_count("stop_token_ids", token_ids_.size(), kMaxTokenIds);
  check_count("stop", strings.size(), kMaxStrings);
  for (std::size_t i = 0; i < strings.size(); ++i) {
    check_string(strings[i], i);
    patterns_.push_back(make_pattern(strings[i]));
  }
}

bool StopRules::is_stop_token(std::int64_t token) const {
  return std::binary_search(token_ids_.begin(), token_ids_.end(), token);
}

StopRules::Pattern StopRules::make_pattern(const std::string& text) {
  Pattern pattern{.text = text, .border = std::vector<std::uint32_t>(text.size(), 0)};
  std::uint32_t length = 0;
  for (std::size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = pattern.border[length - 1];
    if (text[i] == text[length]) ++length;
    pattern.border[i] = length;
  }
  return pattern;
}

void StopRules::advance(Pattern& pattern, char byte) {
  while (pattern.state > 0 && pattern.text[pattern.state] != byte) {
    pattern.state = pattern.border[pattern.state - 1];
  }
  if (pattern.text[pattern.state] == byte) ++pattern.state;
}

std::string StopRules::push(std::string_view piece) {
  if (matched_) return {};
  std::string text = std::exchange(held_, {});
  std::size_t seen = text.size();
  text += piece;
  for (; seen < text.size(); ++seen) {
    std::size_t longest = 0;
    for (Pattern& pattern : patterns_) {
      advance(pattern, text[seen]);
      if (pattern.state == pattern.text.size()) longest = std::max(longest, pattern.state);
    }
    if (longest == 0) continue;
    matched_ = true;
    text.resize(seen + 1 - longest);
    return text;
  }
  std::size_t undecided = 0;
  for (const Pattern& pattern : patterns_) undecided = std::max(undecided, pattern.state);
  held_ = text.substr(text.size() - undecided);
  text.resize(text.size() - undecided);
  return text;
}

std::string StopRules::finish() { return std::exchange(held_, {}); }

}  // namespace moa_rt
