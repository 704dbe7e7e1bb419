// Launcher of the sampling kernel, and what it reads and writes for each row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/decode_loop.h"

namespace moa_rt::cuda {

inline constexpr int kMaxBias = 1024;     // as validate_sampling() allows
inline constexpr int kMaxStopIds = 1024;  // as StopRules allows
inline constexpr int kMaxTop = 64;        // as RequestOptions::logprobs allows

// One row of a decode batch. A row whose `active` is 0 samples nothing and stands still.
struct RowState {
  double inverse = 0.0;  // log2(e) / temperature
  double least = 0.0;
  double top_p = 1.0;
  double repetition = 1.0;
  double frequency = 0.0;
  double presence = 0.0;
  std::uint64_t seed = 0;
  std::int64_t index = 0;  // output position of the next token
  std::int64_t min_new_tokens = 0;
  std::int64_t top_k = 0;
  std::int32_t active = 0;
  std::int32_t greedy = 1;
  std::int32_t uses_history = 0;
  std::int32_t logprobs = -1;
  std::int32_t bias_count = 0;
  std::int32_t stop_count = 0;
  std::int32_t seen_count = 0;
  std::int32_t unused = 0;
};

struct TokenBias {
  double bias = 0.0;
  std::int32_t token = 0;
  std::int32_t unused = 0;
};

// The lists of a row, one block of memory a row: offsets into it.
struct RowLists {
  explicit RowLists(std::int64_t most_seen)
      : seen(kMaxBias * static_cast<std::int64_t>(sizeof(TokenBias)) + kMaxStopIds * 4),
        saved(seen + most_seen * static_cast<std::int64_t>(sizeof(SeenToken))),
        bytes((saved + (kMaxBias + kMaxStopIds + most_seen) * 4 + 255) / 256 * 256) {}

  std::int64_t bias = 0;  // TokenBias (kMaxBias)
  std::int64_t stop = kMaxBias * static_cast<std::int64_t>(sizeof(TokenBias));
  std::int64_t seen;   // SeenToken (most_seen)
  std::int64_t saved;  // float: logits before they were adjusted
  std::int64_t bytes;
};

struct RowResult {
  std::int32_t token = 0;
  LogitFault fault = LogitFault::kNone;
  std::int32_t faulty = 0;
  float logprob = 0.0f;
};

struct SampleArgs {
  float* logits = nullptr;  // (rows, vocab); adjusted and restored
  std::int32_t rows = 0;
  std::int32_t vocab = 0;
  std::int32_t valid_vocab = 0;
  std::int32_t most_seen = 0;
  RowState* states = nullptr;
  std::byte* lists = nullptr;
  std::int32_t* tokens = nullptr;     // (rows): the next step's
  std::int32_t* positions = nullptr;  // (rows): moved on by one; or none
  RowResult* results = nullptr;       // (rows)
  TopToken* top = nullptr;            // (rows, kMaxTop)
};

// Samples every active row by the definition of runtime/sampler.h and runtime/logits.h.
void launch_sample(const SampleArgs& args, cudaStream_t stream);

}  // namespace moa_rt::cuda
