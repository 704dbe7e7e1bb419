// Which keys of a config.json may be there: an allow-list, so that a feature of tomorrow is refused
// by name instead of ignored (C9).
#pragma once

#include "core/json.h"

namespace moa_rt {

// Throws UnsupportedError naming the first key that asks for something not implemented: one that
// must hold its default and does not, or one that nobody here knows and that is not null or false.
void check_config_keys(const JsonObject& config);

}  // namespace moa_rt
