// Which instruction sets this processor has, and the kernels for them.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace moa_rt {

// Names that this processor can run, worst first: "portable" and then some of "avx2", "avx512",
// "avx512_bf16".
std::vector<std::string> available_isas();

// The kernels of a name, or of the best available for "auto". Throws ArgumentError for a name that
// is none of them and UnsupportedError for one this processor lacks.
const CpuKernels& select_kernels(const std::string& isa);

}  // namespace moa_rt
