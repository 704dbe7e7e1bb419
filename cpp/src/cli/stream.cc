#include "cli/stream.h"

#include <cstdio>

#include "cli/interrupt.h"

namespace moa_rt::cli {
namespace {

using Json = nlohmann::ordered_json;

EngineStats difference(const EngineStats& after, const EngineStats& before) {
  EngineStats work;
  work.steps = after.steps - before.steps;
  work.prefill_tokens = after.prefill_tokens - before.prefill_tokens;
  work.decode_tokens = after.decode_tokens - before.decode_tokens;
  work.prefill_seconds = after.prefill_seconds - before.prefill_seconds;
  work.decode_seconds = after.decode_seconds - before.decode_seconds;
  work.decode_bytes = after.decode_bytes - before.decode_bytes;
  return work;
}

void collect(const TokenEvent& event, Completion& completion) {
  if (event.token) {
    completion.token_ids.push_back(*event.token);
    ++completion.completion_tokens;
  }
  if (event.logprob) completion.logprobs.push_back(*event.logprob);
  completion.text += event.text;
  completion.finish_reason = event.finish;
  if (event.finish == FinishReason::kError) {
    throw Error(event.error_code.value_or(ErrorCode::kInternal), event.error);
  }
}

Json logprob_json(const TokenLogprob& logprob) {
  Json json = {{"token", logprob.token}, {"logprob", logprob.logprob}};
  if (logprob.top.empty()) return json;
  for (const auto& [token, value] : logprob.top) {
    json["top"].push_back({{"token", token}, {"logprob", value}});
  }
  return json;
}

}  // namespace

double rate(double work, double seconds) { return seconds > 0.0 ? work / seconds : 0.0; }

Answer stream_answer(Engine& engine, const std::vector<std::int32_t>& prompt,
                     const RequestOptions& options,
                     const std::function<void(std::string_view)>& on_text) {
  Answer answer;
  Completion& completion = answer.completion;
  completion.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  const EngineStats before = engine.stats();
  const RequestId request = engine.submit(prompt, options);
  try {
    while (completion.finish_reason == FinishReason::kNone && engine.has_work()) {
      if (interrupts() > 0) engine.cancel(request);
      for (const TokenEvent& event : engine.step()) {
        collect(event, completion);
        if (!event.text.empty()) on_text(event.text);
      }
    }
  } catch (const StateError&) {
    if (interrupts() == 0) throw;
    answer.abandoned = true;
  }
  if (completion.finish_reason == FinishReason::kNone) {
    completion.finish_reason = FinishReason::kCancelled;
  }
  answer.work = difference(engine.stats(), before);
  return answer;
}

std::string summary_line(const Answer& answer, const MemoryReport& memory) {
  const EngineStats& work = answer.work;
  char line[256];
  std::snprintf(line, sizeof line,
                "moa_rt: prompt %lld tokens (%.1f tok/s), output %lld tokens (%.1f tok/s), "
                "KV cache %lld bytes, finish %s\n",
                static_cast<long long>(answer.completion.prompt_tokens),
                rate(static_cast<double>(work.prefill_tokens), work.prefill_seconds),
                static_cast<long long>(answer.completion.completion_tokens),
                rate(static_cast<double>(work.decode_tokens), work.decode_seconds),
                static_cast<long long>(memory.kv_cache_peak),
                finish_reason_name(answer.completion.finish_reason));
  return line;
}

Json memory_json(const MemoryReport& memory) {
  return {{"weights", memory.weights},
          {"kv_cache_peak", memory.kv_cache_peak},
          {"kv_cache_limit", memory.kv_cache_limit},
          {"scratch", memory.scratch},
          {"runtime", memory.runtime}};
}

Json answer_json(const Answer& answer, const MemoryReport& memory) {
  const Completion& completion = answer.completion;
  const EngineStats& work = answer.work;
  Json json = {
      {"text", completion.text},
      {"token_ids", completion.token_ids},
      {"finish_reason", finish_reason_name(completion.finish_reason)},
      {"prompt_tokens", completion.prompt_tokens},
      {"completion_tokens", completion.completion_tokens},
      {"prefill_seconds", work.prefill_seconds},
      {"decode_seconds", work.decode_seconds},
      {"prefill_tokens_per_second",
       rate(static_cast<double>(work.prefill_tokens), work.prefill_seconds)},
      {"decode_tokens_per_second",
       rate(static_cast<double>(work.decode_tokens), work.decode_seconds)},
      {"memory", memory_json(memory)},
  };
  for (const TokenLogprob& logprob : completion.logprobs) {
    json["logprobs"].push_back(logprob_json(logprob));
  }
  return json;
}

}  // namespace moa_rt::cli
