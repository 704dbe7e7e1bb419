// Numbers as text: the same on every platform and in every locale.
#pragma once

#include <string>

namespace moa_rt {

// Shortest decimal that reads back as the same double; "nan", "inf" and "-inf" for the rest.
std::string decimal(double value);

}  // namespace moa_rt
