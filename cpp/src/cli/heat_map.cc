#include "cli/heat_map.h"

#include <algorithm>
#include <array>

namespace moa_rt::cli {
namespace {

constexpr std::int64_t kLevels = 8;
constexpr std::array<const char*, kLevels> kBlocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
// Of the terminal's 256 colours: dark to bright, and told apart without seeing red and green.
constexpr std::array<int, kLevels> kColours = {54, 55, 61, 67, 73, 79, 149, 226};
constexpr std::size_t kGroup = 8;

// Level i: up to i + 1 eighths; the last one is for spans that hide nothing alone.
std::size_t level_of(std::int64_t span, std::int64_t length) {
  if (span >= length) return kLevels - 1;
  const std::int64_t eighths = (span * kLevels + length - 1) / length;
  return static_cast<std::size_t>(std::clamp<std::int64_t>(eighths - 1, 0, kLevels - 2));
}

std::string block(std::size_t level, bool colour) {
  if (!colour) return kBlocks[level];
  return "\x1b[38;5;" + std::to_string(kColours[level]) + "m" + kBlocks[level] + "\x1b[0m";
}

}  // namespace

std::string heat_row(const std::vector<HeadSpan>& heads, std::int64_t length, bool colour) {
  std::string text;
  for (std::size_t head = 0; head < heads.size(); ++head) {
    if (head > 0 && head % kGroup == 0) text += ' ';
    text += block(level_of(heads[head].span(), length), colour);
  }
  return text;
}

std::string heat_legend(std::int64_t length, bool colour) {
  std::string text = "spans of the KV heads: ";
  for (std::size_t level = 0; level + 1 < kLevels; ++level) text += block(level, colour);
  return text + " in eighths of " + std::to_string(length) + " tokens, " +
         block(kLevels - 1, colour) + " dense\n";
}

}  // namespace moa_rt::cli
