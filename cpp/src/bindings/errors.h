// C++ errors as Python exceptions. Needs the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "moa_rt/error.h"

namespace moa_rt::bindings {

// An instance of the class of moa_rt/errors.py for this code; None without one.
pybind11::object make_exception(std::optional<ErrorCode> code, const std::string& message);

}  // namespace moa_rt::bindings
