// Character classes and normalisation form C, over the tables of utf8proc.
#pragma once

#include <string>
#include <string_view>

namespace moa_rt {

bool is_letter(char32_t c);       // \p{L}
bool is_number(char32_t c);       // \p{N}
bool is_white_space(char32_t c);  // the property White_Space, \s
// \w of UTS #18: Alphabetic, marks, decimal numbers, connectors, joiners.
bool is_word(char32_t c);

// Normalisation form C of checked UTF-8, in O(n log n) for any input.
std::string normalize_nfc(std::string_view text);

}  // namespace moa_rt
