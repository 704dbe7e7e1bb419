// Files of a few lines that the system writes about itself, such as /proc/meminfo.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moa_rt {

// All of a file; empty if it cannot be read. No stream: another library of the process may bring
// its own copy of the C++ runtime, and the parsing of numbers by streams goes through tables that
// are then the other copy's.
std::string read_small_file(const std::string& path);

// Takes the next word off `text`, which ends at a space, tab or line feed; empty at the end.
std::string_view next_word(std::string_view& text);

// A whole word that is a decimal number.
std::optional<std::int64_t> parse_integer(std::string_view word);

}  // namespace moa_rt
