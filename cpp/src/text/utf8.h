// UTF-8 by hand: strict checking, decoding of checked text, and a stream that repairs broken text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moa_rt {

// One character of checked text: its value and its length in bytes (1..4).
struct Utf8Char {
  char32_t value;
  std::size_t length;
};

// The character at `position` < text.size(); `text` must have passed `find_invalid_utf8`.
inline Utf8Char utf8_at(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {((lead & 0x1F) << 6) | (byte(1) & 0x3Fu), 2};
  if (lead < 0xF0) {
    return {((lead & 0x0F) << 12) | ((byte(1) & 0x3Fu) << 6) | (byte(2) & 0x3Fu), 3};
  }
  return {((lead & 0x07) << 18) | ((byte(1) & 0x3Fu) << 12) | ((byte(2) & 0x3Fu) << 6) |
              (byte(3) & 0x3Fu),
          4};
}

// Start of the character that ends at `position` > 0 in checked text.
inline std::size_t utf8_previous(std::string_view text, std::size_t position) {
  do {
    --position;
  } while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

void append_utf8(char32_t value, std::string& out);

// Offset of the first byte that is not part of well-formed UTF-8 (Unicode table 3-7: no surrogates,
// no overlong forms, nothing above U+10FFFF).
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

// Bytes in, well-formed UTF-8 out. Each maximal ill-formed part becomes one U+FFFD, so the output
// does not depend on how the bytes were cut. An unfinished character is held back until `finish`.
class Utf8Repair {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);

 private:
  void start(unsigned char byte, std::string& out);

  std::string held_;
  int missing_ = 0;  // continuation bytes still to come
  unsigned char low_ = 0x80;
  unsigned char high_ = 0xBF;
};

}  // namespace moa_rt
