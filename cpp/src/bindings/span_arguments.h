// Span rules from Python values.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "moa_rt/span.h"

namespace moa_rt::bindings {

// max_span None or 0: unbounded. `item` leads messages: "rules[3][1]".
SpanRule make_rule(pybind11::handle alpha, pybind11::handle beta, pybind11::handle max_span,
                   const std::string& item);

}  // namespace moa_rt::bindings
