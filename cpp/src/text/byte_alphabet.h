// The printable character that stands for each byte in a byte-level vocabulary (GPT-2): visible
// Latin-1 characters stand for themselves, the other 68 bytes for U+0100 onwards.
#pragma once

#include <array>
#include <cstdint>

namespace moa_rt {

namespace detail {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char16_t, 256> make_byte_characters() {
  std::array<char16_t, 256> table{};
  char16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    table[static_cast<std::size_t>(byte)] =
        stands_for_itself(byte) ? static_cast<char16_t>(byte) : next++;
  }
  return table;
}

}  // namespace detail

inline constexpr std::array<char16_t, 256> kByteCharacters = detail::make_byte_characters();

// The byte that `c` stands for, or -1.
constexpr int byte_of_character(char32_t c) {
  if (c < 0x100) return detail::stands_for_itself(static_cast<int>(c)) ? static_cast<int>(c) : -1;
  if (c >= 0x100 + 68) return -1;
  // U+0100..U+0120 are 0x00..0x20, then 0x7F..0xA0, then 0xAD.
  const int index = static_cast<int>(c) - 0x100;
  if (index <= 0x20) return index;
  return index <= 0x42 ? index - 0x21 + 0x7F : 0xAD;
}

}  // namespace moa_rt
