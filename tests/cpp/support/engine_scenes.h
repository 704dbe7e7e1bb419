// What tests of the engine on any device share: prompts, plans and requests for the tiny model.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "moa_rt/engine.h"

namespace moa_rt::testing {

using Tokens = std::vector<std::int32_t>;

// Ids of the tiny model other than its end of text.
inline Tokens random_tokens(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<std::int32_t> token(1, 319);
  Tokens out(static_cast<std::size_t>(count));
  for (std::int32_t& id : out) id = token(random);
  return out;
}

// Spans that differ between the heads of every layer and wrap within a few hundred tokens.
inline AttentionPlan mixed_plan() {
  const SpanRule narrow{128, 0, 0};
  const SpanRule half{0, std::int64_t{1} << 31, 0};
  const SpanRule dense{};
  return AttentionPlan::from_rules({{narrow, dense}, {half, narrow}, {dense, half}}, 8, 8);
}

// Greedy, to the end.
inline RequestOptions greedy_request(std::int64_t new_tokens, std::int64_t logprobs = -1) {
  RequestOptions out;
  out.max_new_tokens = new_tokens;
  out.ignore_eos = true;
  out.logprobs = logprobs;
  return out;
}

// Every option that sampling has.
inline RequestOptions rich_request(std::int64_t new_tokens, std::uint64_t seed) {
  RequestOptions out = greedy_request(new_tokens, 3);
  out.sampling.temperature = 0.9;
  out.sampling.top_k = 40;
  out.sampling.top_p = 0.9;
  out.sampling.min_p = 0.01;
  out.sampling.repetition_penalty = 1.2;
  out.sampling.presence_penalty = 0.3;
  out.sampling.frequency_penalty = 0.2;
  out.sampling.logit_bias = {{7, 2.0}, {11, -100.0}};
  out.sampling.seed = seed;
  return out;
}

}  // namespace moa_rt::testing
