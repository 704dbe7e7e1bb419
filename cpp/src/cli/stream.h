// One request from submit to its end, with its text as it comes.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "moa_rt/engine.h"

namespace moa_rt::cli {

struct Answer {
  Completion completion;
  EngineStats work;        // done for this request
  bool abandoned = false;  // in the middle of a step: a session it belonged to is gone
};

// Ctrl-C cancels the request: the answer then holds what there was, with FinishReason::kCancelled.
// Throws what the request failed with.
Answer stream_answer(Engine& engine, const std::vector<std::int32_t>& prompt,
                     const RequestOptions& options,
                     const std::function<void(std::string_view)>& on_text);

// Tokens of prompt and answer, their rates, the KV bytes and the reason for the end, in one line.
std::string summary_line(const Answer& answer, const MemoryReport& memory);
nlohmann::ordered_json answer_json(const Answer& answer, const MemoryReport& memory);
nlohmann::ordered_json memory_json(const MemoryReport& memory);

// work / seconds; 0 where no time was spent.
double rate(double work, double seconds);

}  // namespace moa_rt::cli
