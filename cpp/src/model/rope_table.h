// The table of rotary angles.
#pragma once

#include <cstdint>
#include <vector>

#include "moa_rt/model_config.h"
#include "ops/backend.h"

namespace moa_rt {

// Radians per position of each of the head_dim / 2 pairs, in the float32 arithmetic of transformers
// (modeling_rope_utils.py), whose rounding shows at large positions. Its powers are rounded less
// exactly than ours: about one frequency in a hundred differs in the last bit.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope, std::int64_t head_dim);

// cos and sin of the float32 product position * frequency, for positions [0, positions): each
// float32 (positions, head_dim / 2). Throws ResourceError if the backend has no room.
RopeTable make_rope_table(const ModelConfig& config, std::int64_t positions, Backend& backend);

}  // namespace moa_rt
