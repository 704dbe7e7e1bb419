// Spans for the eye: one character for each KV head, as high as the share of the length it keeps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moa_rt/span.h"

namespace moa_rt::cli {

// "▁▁█▃ ...": eighths of `length`, the full block for what reaches it (dense); a gap after every
// eighth head. `colour` adds terminal colours, from violet (narrow) to yellow (dense).
std::string heat_row(const std::vector<HeadSpan>& heads, std::int64_t length, bool colour);

// What the characters mean.
std::string heat_legend(std::int64_t length, bool colour);

}  // namespace moa_rt::cli
