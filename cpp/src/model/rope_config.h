// The rotary part of a config.json.
#pragma once

#include <string>

#include "core/json.h"
#include "moa_rt/model_config.h"

namespace moa_rt {

// Reads `rope_theta` with `rope_scaling`, or the newer `rope_parameters` that holds both. Throws
// UnsupportedError for a type that is not implemented and for any key this code does not know (C8):
// an ignored scaling key would give wrong positions without a sign.
RopeConfig parse_rope_config(const JsonObject& config);

}  // namespace moa_rt
