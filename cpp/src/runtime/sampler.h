// Sampler: one token from one row of logits.
//
// Order of the steps, each a definition of its own:
//   1. logit bias, added
//   2. repetition penalty r over prompt and output: l / r if l > 0, else l * r (CTRL, arXiv
//   1909.05858)
//   3. frequency f and presence p over the output: l - f * count - (count > 0 ? p : 0)
//   4. temperature T: l / T; below 1e-5 the largest logit wins, lowest id among equals
//   5. top-k: the k largest, lowest id first among equals
//   6. min-p: at least min_p times the probability of the likeliest
//   7. top-p: in order of falling probability until top_p of what is left is reached (arXiv
//   1904.09751)
// and one draw from what remains, taken in order of token id.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moa_rt/engine.h"
#include "ops/decode_loop.h"
#include "ops/sampling_math.h"
#include "runtime/logits.h"
#include "runtime/token_history.h"

namespace moa_rt {

// Throws ArgumentError naming field, got and want for a value out of bounds (G6, G7). `vocab` is
// the width of the logits.
void validate_sampling(const SamplingOptions& options, std::int64_t vocab);

// Whether these options look at the tokens seen so far; without, a history may stay empty.
bool uses_history(const SamplingOptions& options);

// The options as the device is told them. They must have been validated.
SamplingPlan plan_sampling(const SamplingOptions& options);

class Sampler {
 public:
  // `vocab` logits a row; rows of padding, ids from `valid_vocab` on, are never chosen (C10).
  Sampler(std::int64_t vocab, std::int64_t valid_vocab);

  // The token of output position `step`. `banned` ids are ruled out. The options must have been
  // validated. Allocates nothing. Throws NumericError for a row with NaN or +inf, or with nothing
  // left to choose (L1, L2).
  std::int32_t sample(std::span<const float> logits, const SamplingOptions& options,
                      const TokenHistory& history, std::uint64_t seed, std::int64_t step,
                      std::span<const std::int64_t> banned = {});

  // Bytes of the workspace.
  static std::int64_t predict_bytes(std::int64_t vocab);

 private:
  struct Candidate {
    float score = 0.0f;
    std::int32_t token = 0;
    double weight = 0.0;  // exp((score - top) / temperature)
  };
  static bool better(const Candidate& a, const Candidate& b);

  void adjust(std::span<const float> row, const SamplingOptions& options,
              const TokenHistory& history, std::span<const std::int64_t> banned);
  void collect(std::span<const float> scores, float top, const SamplingPlan& plan);
  void keep_top_k(std::int64_t top_k);
  double weigh(float top, double temperature);
  double keep_top_p(double total, double top_p);
  std::int32_t draw(double mass, double uniform) const;

  std::int64_t vocab_;
  std::int64_t valid_vocab_;
  std::vector<float> scores_;          // adjusted logits
  std::vector<Candidate> candidates_;  // by token; never more than valid_vocab_
  std::vector<Candidate> ranked_;      // a copy of them, for finding a cut
};

}  // namespace moa_rt
