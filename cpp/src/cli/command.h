// The subcommands of moa-rt. Each adds its own options to the application and says what to do when
// it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace moa_rt::cli {

struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;  // returns the exit status; throws moa_rt::Error
};

Command add_generate(CLI::App& app);
Command add_chat(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_inspect(CLI::App& app);

// Exit status of a command that Ctrl-C ended: 128 + SIGINT.
inline constexpr int kInterruptedStatus = 130;

}  // namespace moa_rt::cli
