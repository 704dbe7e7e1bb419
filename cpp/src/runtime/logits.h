// Figures of one row of logits: the largest, and natural-log probabilities.
#pragma once

#include <cstdint>
#include <span>

#include "moa_rt/engine.h"
#include "ops/decode_loop.h"

namespace moa_rt {

// Largest of a row. Throws NumericError for NaN, +inf or a row of -inf only (L1, L2); a single -inf
// is a token that is ruled out.
float finite_max(std::span<const float> logits);

// Throws the NumericError of a row that finite_max() refuses; `token` is the first at fault.
[[noreturn]] void fail_logits(LogitFault fault, std::int64_t token);

// Index of the first element equal to `value`, which must be there: equal logits, lowest id wins
// (L2).
std::int32_t first_equal(std::span<const float> logits, float value);

// log(softmax(logits)) of `token` and of the `top_count` likeliest tokens, likeliest first, lowest
// id first among equals, summed in double. Throws NumericError as finite_max does, ArgumentError
// for a token outside the row.
TokenLogprob token_logprob(std::span<const float> logits, std::int32_t token,
                           std::int64_t top_count);

}  // namespace moa_rt
