#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "text/utf8.h"

namespace moa_rt {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

int combining_class(utf8proc_int32_t c) {
  return static_cast<int>(utf8proc_get_property(c)->combining_class);
}

constexpr auto kNfcOptions = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);

// Puts every run of marks in canonical order. utf8proc sorts by insertion, which is quadratic in
// the length of a run.
void order_marks(std::vector<utf8proc_int32_t>& characters) {
  auto run = characters.begin();
  while (run != characters.end()) {
    if (combining_class(*run) == 0) {
      ++run;
      continue;
    }
    const auto end = std::find_if(run, characters.end(),
                                  [](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(run, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    run = end;
  }
}

// Characters below U+0300 compose with nothing before them and are their own form C.
bool is_trivially_nfc(std::string_view text) {
  constexpr unsigned char kLeadOf0300 = 0xCC;
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < kLeadOf0300; });
}

}  // namespace

bool is_letter(char32_t c) {
  if (c < 0x80) return (c | 0x20) - U'a' < 26;
  const auto value = category(c);
  return value >= UTF8PROC_CATEGORY_LU && value <= UTF8PROC_CATEGORY_LO;
}

bool is_number(char32_t c) {
  if (c < 0x80) return c - U'0' < 10;
  const auto value = category(c);
  return value >= UTF8PROC_CATEGORY_ND && value <= UTF8PROC_CATEGORY_NO;
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == U' ' || (c >= 0x09 && c <= 0x0D);
  if (c < 0x1680) return c == 0x85 || c == 0xA0;
  return c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_word(char32_t c) {
  if (is_letter(c)) return true;
  // Other_Alphabetic outside the marks: circled and squared Latin letters, which are symbols.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  if (c == 0x200C || c == 0x200D) return true;
  const auto value = category(c);
  return (value >= UTF8PROC_CATEGORY_MN && value <= UTF8PROC_CATEGORY_NL) ||
         value == UTF8PROC_CATEGORY_PC;
}

std::string normalize_nfc(std::string_view text) {
  if (is_trivially_nfc(text)) return std::string(text);
  std::vector<utf8proc_int32_t> characters;
  characters.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const auto [value, length] = utf8_at(text, position);
    position += length;
    std::array<utf8proc_int32_t, 8> parts;  // no canonical decomposition is longer than 4
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(value), parts.data(),
                                               static_cast<utf8proc_ssize_t>(parts.size()),
                                               kNfcOptions, &boundary);
    characters.insert(characters.end(), parts.begin(), parts.begin() + count);
  }
  order_marks(characters);
  const auto count = utf8proc_normalize_utf32(
      characters.data(), static_cast<utf8proc_ssize_t>(characters.size()), kNfcOptions);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(static_cast<char32_t>(characters[static_cast<std::size_t>(i)]), out);
  }
  return out;
}

}  // namespace moa_rt
