// Command line options that several subcommands share. They write straight into the library's own
// option structs, so a default exists only there.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moa_rt/engine.h"

namespace moa_rt::cli {

struct EngineFlags {
  std::string model_dir;
  EngineOptions options;
  std::string plan_path;          // empty: none; "auto": the one that ships for the model
  std::optional<double> density;  // of a uniform plan, or of the one that ships
};

void add_engine_flags(CLI::App& app, EngineFlags& flags);

// The options with the plan filled in: from the file, shipped, uniform, or none (dense). A plan
// that is used only because of --force-plan is reported on standard error.
EngineOptions engine_options(const EngineFlags& flags);

struct RequestFlags {
  RequestOptions options;
  std::vector<std::string> logit_bias;  // "ID=VALUE"
};

void add_request_flags(CLI::App& app, RequestFlags& flags);
RequestOptions request_options(const RequestFlags& flags);

// Longest text worth tokenizing for `max_tokens` tokens: no token stands for more bytes on average.
constexpr std::size_t max_text_bytes(std::int64_t max_tokens) {
  return 16 * static_cast<std::size_t>(max_tokens);
}
// Throws ArgumentError if `text` cannot fit the engine, before it is tokenized.
void check_text_length(const Engine& engine, const std::string& text);

}  // namespace moa_rt::cli
