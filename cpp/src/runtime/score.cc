// Logits of a given text, position by position, for scoring and checking.
#include <algorithm>
#include <numeric>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"
#include "ops/ops.h"
#include "runtime/engine_impl.h"
#include "runtime/logits.h"

namespace moa_rt {

KVCache Engine::Impl::make_text_cache(const std::vector<std::int32_t>& token_ids,
                                      std::int64_t budget) {
  check_tokens(token_ids, "token_ids");
  const auto size = static_cast<std::int64_t>(token_ids.size());
  if (budget == 0) budget = size;
  if (budget < size || budget > options_.max_seq_len) {
    throw ArgumentError(describe({.field = "budget",
                                  .got = std::to_string(budget),
                                  .want = "at least the " + std::to_string(size) +
                                          " tokens given and at most max_seq_len " +
                                          std::to_string(options_.max_seq_len)}));
  }
  check_fits_at_all(budget);
  if (live_kv_bytes() + cache_bytes(budget) > options_.kv_cache_bytes) {
    throw BusyError("KV cache of " + std::to_string(budget) + " tokens: need " +
                    std::to_string(cache_bytes(budget)) + " bytes, free " +
                    std::to_string(options_.kv_cache_bytes - live_kv_bytes()));
  }
  return make_cache(budget);
}

void Engine::Impl::for_each_logits(const std::vector<std::int32_t>& token_ids, std::int64_t budget,
                                   const LogitsSink& take) {
  const auto lock = enter();
  KVCache cache = make_text_cache(token_ids, budget);
  const auto size = static_cast<std::int64_t>(token_ids.size());
  const std::span<const std::int32_t> tokens(token_ids);
  const std::int64_t logit_rows = activations_.logits.dim(0);
  std::vector<std::int64_t> index(static_cast<std::size_t>(logit_rows));
  for (std::int64_t begin = 0; begin < size; begin += options_.prefill_chunk) {
    const std::int64_t count = std::min(options_.prefill_chunk, size - begin);
    const SequenceSlice slice{&cache, 0, count, begin};
    const auto chunk =
        tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
    if (!decoder_->forward({chunk, {&slice, 1}}, activations_, interrupted_)) {
      throw StateError("interrupted");
    }
    cache.advance(count);
    for (std::int64_t first = 0; first < count; first += logit_rows) {
      const std::int64_t rows = std::min(logit_rows, count - first);
      std::iota(index.begin(), index.begin() + rows, first);
      take(begin + first,
           decoder_->logits(std::span(index).first(static_cast<std::size_t>(rows)), activations_));
    }
  }
}

std::vector<float> Engine::Impl::score(const std::vector<std::int32_t>& token_ids,
                                       std::int64_t budget) {
  std::vector<float> out;
  out.reserve(token_ids.size());
  std::vector<RowLogprob> rows;
  for_each_logits(token_ids, budget, [&](std::int64_t first, const Tensor& logits) {
    const auto next = std::span(token_ids).subspan(static_cast<std::size_t>(first) + 1);
    rows.resize(std::min(static_cast<std::size_t>(logits.dim(0)), next.size()));
    if (rows.empty()) return;  // the last position predicts nothing that is there
    ops::token_logprobs(*backend_, logits.rows(0, static_cast<std::int64_t>(rows.size())),
                        next.first(rows.size()), rows);
    for (const RowLogprob& row : rows) {
      if (row.fault != LogitFault::kNone) fail_logits(row.fault, row.faulty);
      out.push_back(row.logprob);
    }
  });
  return out;
}

std::vector<float> Engine::Impl::logits(const std::vector<std::int32_t>& token_ids,
                                        std::int64_t budget) {
  std::vector<float> out;
  for_each_logits(token_ids, budget, [&](std::int64_t first, const Tensor& logits) {
    const auto vocab = static_cast<std::size_t>(logits.dim(1));
    if (first == 0) out.reserve(token_ids.size() * vocab);
    const float* rows = backend_->host_floats(logits);
    out.insert(out.end(), rows, rows + static_cast<std::size_t>(logits.dim(0)) * vocab);
  });
  return out;
}

}  // namespace moa_rt
