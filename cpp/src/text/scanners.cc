#include "text/scanners.h"

#include <algorithm>
#include <array>

#include "text/unicode.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

constexpr std::size_t kNoMatch = 0;  // a piece never ends at 0

bool is_line_break(char32_t c) { return c == U'\r' || c == U'\n'; }
bool is_symbol(char32_t c) { return !is_white_space(c) && !is_letter(c) && !is_number(c); }

// End of the run of characters for which `is_member` holds, at most `limit` of them.
template <typename Predicate>
std::size_t run_end(std::string_view text, std::size_t position, Predicate is_member,
                    std::size_t limit = ~std::size_t{0}) {
  for (std::size_t count = 0; position < text.size() && count < limit; ++count) {
    const Utf8Char c = utf8_at(text, position);
    if (!is_member(c.value)) break;
    position += c.length;
  }
  return position;
}

// "'s", "'re" and so on. U+017F (long s) is an s when case is ignored.
std::size_t scan_contraction(std::string_view text, std::size_t begin, bool ignore_case) {
  if (text[begin] != '\'') return kNoMatch;
  const std::string_view rest = text.substr(begin + 1, 2);
  const auto letter = [&](std::size_t i) {
    const char c = i < rest.size() ? rest[i] : '\0';
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
  };
  const char first = letter(0);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
  if (ignore_case && rest == "\u017F") return begin + 3;
  const char second = letter(1);
  const bool pair =
      ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l');
  return pair ? begin + 3 : kNoMatch;
}

// " ?x+" for a class of characters x that holds no space.
template <typename Predicate>
std::size_t scan_after_space(std::string_view text, std::size_t begin, Predicate is_member) {
  const std::size_t start = begin + (text[begin] == ' ' ? 1 : 0);
  const std::size_t end = run_end(text, start, is_member);
  return end > start ? end : kNoMatch;
}

// "\s+(?!\S)|\s+": a run leaves its last character to the word after it, unless it is alone.
std::size_t scan_white_space(std::string_view text, std::size_t begin) {
  const std::size_t end = run_end(text, begin, is_white_space);
  if (end == text.size()) return end;
  const std::size_t last = utf8_previous(text, end);
  return last > begin ? last : end;
}

// "\s*[\r\n]+": up to the last line break of the run of white space.
std::size_t scan_line_breaks(std::string_view text, std::size_t begin) {
  std::size_t end = kNoMatch;
  for (std::size_t position = begin; position < text.size();) {
    const Utf8Char c = utf8_at(text, position);
    if (!is_white_space(c.value)) break;
    position += c.length;
    if (is_line_break(c.value)) end = position;
  }
  return end;
}

// "[^\r\n\p{L}\p{N}]?\p{L}+"
std::size_t scan_word(std::string_view text, std::size_t begin) {
  const Utf8Char first = utf8_at(text, begin);
  std::size_t start = begin;
  if (!is_letter(first.value)) {
    if (is_line_break(first.value) || is_number(first.value)) return kNoMatch;
    start += first.length;
  }
  const std::size_t end = run_end(text, start, is_letter);
  return end > start ? end : kNoMatch;
}

std::size_t scan_tiktoken(std::string_view text, std::size_t begin, std::size_t max_digits) {
  if (const auto end = scan_contraction(text, begin, true); end != kNoMatch) return end;
  if (const auto end = scan_word(text, begin); end != kNoMatch) return end;
  if (const auto end = run_end(text, begin, is_number, max_digits); end != begin) return end;
  if (const auto end = scan_after_space(text, begin, is_symbol); end != kNoMatch) {
    return run_end(text, end, is_line_break);
  }
  if (const auto end = scan_line_breaks(text, begin); end != kNoMatch) return end;
  return scan_white_space(text, begin);
}

struct KnownPattern {
  std::string_view pattern;
  Scanner scanner;
};

constexpr std::array<KnownPattern, 3> kPatterns{{
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", scan_gpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     scan_llama3},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     scan_qwen2},
}};

}  // namespace

std::size_t scan_single_digits(std::string_view text, std::size_t begin) {
  const Utf8Char first = utf8_at(text, begin);
  if (is_number(first.value)) return begin + first.length;
  return run_end(text, begin, [](char32_t c) { return !is_number(c); });
}

std::size_t scan_digit_runs(std::string_view text, std::size_t begin) {
  const bool digits = is_number(utf8_at(text, begin).value);
  return run_end(text, begin, [digits](char32_t c) { return is_number(c) == digits; });
}

std::size_t scan_gpt2(std::string_view text, std::size_t begin) {
  if (const auto end = scan_contraction(text, begin, false); end != kNoMatch) return end;
  if (const auto end = scan_after_space(text, begin, is_letter); end != kNoMatch) return end;
  if (const auto end = scan_after_space(text, begin, is_number); end != kNoMatch) return end;
  if (const auto end = scan_after_space(text, begin, is_symbol); end != kNoMatch) return end;
  return scan_white_space(text, begin);
}

std::size_t scan_llama3(std::string_view text, std::size_t begin) {
  return scan_tiktoken(text, begin, 3);
}

std::size_t scan_qwen2(std::string_view text, std::size_t begin) {
  return scan_tiktoken(text, begin, 1);
}

Scanner find_scanner(std::string_view pattern) {
  const auto found =
      std::find_if(kPatterns.begin(), kPatterns.end(),
                   [&](const KnownPattern& known) { return known.pattern == pattern; });
  return found == kPatterns.end() ? nullptr : found->scanner;
}

}  // namespace moa_rt
