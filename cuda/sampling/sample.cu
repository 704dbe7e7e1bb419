// Sampling on the device: one block a row, the definition of runtime/sampler.h, in few passes over
// the row, each as wide as the block.
#include "cuda/device/dependency.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/sampling/choice.cuh"
#include "cuda/sampling/row.cuh"
#include "cuda/sampling/sampling.h"
#include "ops/sampling_math.h"

namespace moa_rt::cuda {
namespace sampling {
namespace {

struct Lists {
  TokenBias* bias;
  std::int32_t* stop;
  SeenToken* seen;
  float* saved;

  __device__ Lists(std::byte* base, int most_seen) {
    bias = reinterpret_cast<TokenBias*>(base);
    stop = reinterpret_cast<std::int32_t*>(bias + kMaxBias);
    seen = reinterpret_cast<SeenToken*>(stop + kMaxStopIds);
    saved = reinterpret_cast<float*>(seen + most_seen);
  }
};

struct Checked {
  float top = 0.0f;
  LogitFault fault = LogitFault::kNone;
  int faulty = 0;
};

// finite_max() of runtime/logits.h.
__device__ Checked check_row(Block& block, const float* scores, int size) {
  std::uint64_t best = 0;
  std::uint64_t bad = ~std::uint64_t{0};
  for (int i = thread(); i < size; i += kThreads) {
    const float x = scores[i];
    if (!(x <= 3.402823466e+38f)) {
      bad = bad < static_cast<std::uint64_t>(i) ? bad : static_cast<std::uint64_t>(i);
    } else {
      const std::uint64_t key = ordered(x);
      best = key > best ? key : best;
    }
  }
  bad = block.min(bad);
  best = block.max(best);
  Checked result;
  result.top = unordered(static_cast<std::uint32_t>(best));
  if (bad != ~std::uint64_t{0}) {
    result.faulty = static_cast<int>(bad);
    result.fault = isnan(scores[bad]) ? LogitFault::kNotANumber : LogitFault::kInfinite;
  } else if (result.top == kRuledOut) {
    result.fault = LogitFault::kNothingLeft;
  }
  return result;
}

// Bias, penalties and bans, in place; the old values are saved, each list after the other.
class Adjustment {
 public:
  __device__ Adjustment(const RowState& state, const Lists& lists, int valid_vocab)
      : lists_(lists),
        valid_vocab_(valid_vocab),
        bias_(state.bias_count),
        seen_(state.uses_history != 0 ? state.seen_count : 0),
        stop_(state.index + 1 < state.min_new_tokens ? state.stop_count : 0) {}

  __device__ bool any() const { return bias_ + seen_ + stop_ > 0; }

  __device__ void apply(const RowState& state, float* scores) const {
    each(0, bias_, [&](int i, float& saved) {
      change(scores, lists_.bias[i].token, saved,
             [&](float x) { return biased(x, lists_.bias[i].bias); });
    });
    each(bias_, seen_, [&](int i, float& saved) {
      const SeenToken entry = lists_.seen[i];
      change(scores, entry.token, saved, [&](float x) {
        return penalised(x, state.repetition, state.frequency, state.presence, entry.output_count);
      });
    });
    each(bias_ + seen_, stop_, [&](int i, float& saved) {
      change(scores, lists_.stop[i], saved, [](float) { return kRuledOut; });
    });
  }
  __device__ void restore(float* scores) const {
    const auto put_back = [&](int token, float saved) {
      if (token < valid_vocab_) scores[token] = saved;
    };
    each(bias_ + seen_, stop_, [&](int i, float& saved) { put_back(lists_.stop[i], saved); });
    each(bias_, seen_, [&](int i, float& saved) { put_back(lists_.seen[i].token, saved); });
    each(0, bias_, [&](int i, float& saved) { put_back(lists_.bias[i].token, saved); });
  }

 private:
  template <typename Body>
  __device__ void each(int first, int count, Body body) const {
    for (int i = thread(); i < count; i += kThreads) body(i, lists_.saved[first + i]);
    __syncthreads();
  }
  template <typename Rule>
  __device__ void change(float* scores, int token, float& saved, Rule rule) const {
    if (token >= valid_vocab_) return;
    saved = scores[token];
    scores[token] = rule(saved);
  }

  Lists lists_;
  int valid_vocab_;
  int bias_;
  int seen_;
  int stop_;
};

// log of the sum of exponentials, and the likeliest tokens with their scores.
__device__ double log_sum(Block& block, const WholeRow& row, float top) {
  const Weigher weigh{top, 1.4426950408889634074, -1e30};
  std::uint64_t sum = 0;
  row.each(0, row.size, [&](std::uint64_t key) { sum += weigh(score_of(key)); });
  return static_cast<double>(top) + log(static_cast<double>(block.sum(sum)) * kWeightScale);
}

__device__ void find_likeliest(Block& block, Shared& shared, const WholeRow& row, int count,
                               double total, TopToken* out) {
  if (count > row.size) count = row.size;
  const auto one = [](std::uint64_t) { return std::uint64_t{1}; };
  const std::uint64_t rough = rough_cut(row, count);
  const int found =
      collect(row, shared.list, &shared.count, [&](std::uint64_t key) { return key >= rough; });
  constexpr std::uint64_t kAll = ~std::uint64_t{0} >> (64 - 32 - kIdBits);
  const auto wanted = static_cast<std::uint64_t>(count);
  const KeyList list{shared.list, found};
  const std::uint64_t cut = found < 0 ? find_cut(block, row, rough, kAll, wanted, one)
                                      : find_cut(block, list, rough, kAll, wanted, one);
  __syncthreads();
  if (thread() == 0) shared.count = 0;
  __syncthreads();
  row.each(0, row.size, [&](std::uint64_t key) {
    if (key >= cut) shared.best[atomicAdd(&shared.count, 1)] = key;
  });
  __syncthreads();
  if (thread() >= count) return;
  const std::uint64_t mine = shared.best[thread()];
  int rank = 0;
  for (int i = 0; i < count; ++i) rank += shared.best[i] > mine ? 1 : 0;
  out[rank] = {id_of(mine), static_cast<float>(static_cast<double>(score_of(mine)) - total)};
}

__device__ int first_equal(Block& block, const float* scores, int size, float top) {
  std::uint64_t first = ~std::uint64_t{0};
  for (int i = thread(); i < size; i += kThreads) {
    if (scores[i] == top) {
      first = static_cast<std::uint64_t>(i);
      break;
    }
  }
  return static_cast<int>(block.min(first));
}

// Counts the token among those seen.
__device__ void remember(Block& block, RowState& state, const Lists& lists, int most_seen,
                         int token) {
  std::uint64_t found = 0;
  for (int i = thread(); i < state.seen_count; i += kThreads) {
    if (lists.seen[i].token != token) continue;
    ++lists.seen[i].output_count;
    found = 1;
  }
  found = block.max(found);
  if (thread() == 0 && found == 0 && state.seen_count < most_seen) {
    lists.seen[state.seen_count++] = {token, 1};
  }
}

__device__ RowResult sample_row(const SampleArgs& args, RowState& state, const Lists& lists,
                                Shared& shared, TopToken* top_tokens, float* logits) {
  Block block(shared.scratch);
  RowResult result;
  const bool wants_logprob = state.logprobs >= 0;
  const WholeRow whole{logits, args.vocab};
  double total = 0.0;
  Checked checked = check_row(block, logits, wants_logprob ? args.vocab : args.valid_vocab);
  if (checked.fault == LogitFault::kNone && wants_logprob) {
    total = log_sum(block, whole, checked.top);
    if (state.logprobs > 0) {
      find_likeliest(block, shared, whole, state.logprobs, total, top_tokens);
    }
    if (args.valid_vocab < args.vocab) checked = check_row(block, logits, args.valid_vocab);
  }
  const Adjustment adjustment(state, lists, args.valid_vocab);
  const bool adjusted = checked.fault == LogitFault::kNone && adjustment.any();
  if (adjusted) {
    adjustment.apply(state, logits);
    checked = check_row(block, logits, args.valid_vocab);
  }
  result.fault = checked.fault;
  result.faulty = checked.faulty;
  if (checked.fault == LogitFault::kNone) {
    const WholeRow row{logits, args.valid_vocab};
    result.token = state.greedy != 0 ? first_equal(block, logits, args.valid_vocab, checked.top)
                                     : Choice(block, shared, state, row, checked.top).run();
  }
  __syncthreads();
  if (adjusted) adjustment.restore(logits);
  if (wants_logprob && result.fault == LogitFault::kNone) {
    result.logprob = static_cast<float>(static_cast<double>(logits[result.token]) - total);
  }
  if (state.uses_history != 0 && result.fault == LogitFault::kNone) {
    remember(block, state, lists, args.most_seen, result.token);
  }
  return result;
}

__global__ void __launch_bounds__(kThreads) sample(SampleArgs args, std::int64_t list_bytes) {
  __shared__ Shared shared;
  wait_for_inputs();
  const std::int64_t index = blockIdx.x;
  RowState& state = args.states[index];
  if (state.active == 0) return;
  const Lists lists(args.lists + index * list_bytes, args.most_seen);
  const RowResult result = sample_row(args, state, lists, shared, args.top + index * kMaxTop,
                                      args.logits + index * args.vocab);
  __syncthreads();
  if (thread() != 0) return;
  args.results[index] = result;
  args.tokens[index] = result.token;
  if (args.positions != nullptr) ++args.positions[index];
  ++state.index;
}

}  // namespace
}  // namespace sampling

void launch_sample(const SampleArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  launch("sample", sampling::sample, dim3(static_cast<unsigned>(args.rows)), sampling::kThreads, 0,
         stream, args, RowLists(args.most_seen).bytes);
}

}  // namespace moa_rt::cuda
