// Conversion between the types weights are stored and kept in.
#pragma once

#include <cstddef>
#include <span>

#include "moa_rt/types.h"

namespace moa_rt {

// Converts source.size() / size_of(from) elements. To float32 every value is exact. To bfloat16 (8
// significant bits) and float16 (11) values are rounded to nearest, ties to even; what is too large
// becomes infinite, NaN stays NaN. No alignment is needed. Throws InternalError if the sizes
// differ.
void convert_elements(std::span<const std::byte> source, DType from,
                      std::span<std::byte> destination, DType to);

}  // namespace moa_rt
