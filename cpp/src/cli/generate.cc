// moa-rt generate: one prompt, one answer.
#include <memory>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/stream.h"

namespace moa_rt::cli {
namespace {

struct GenerateFlags {
  EngineFlags engine;
  RequestFlags request;
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::string system;
  bool chat = false;
  bool raw = false;
  bool json = false;
  bool quiet = false;
};

std::string read_prompt(const GenerateFlags& flags) {
  if (flags.prompt) return *flags.prompt;
  const std::string path = flags.prompt_file.empty() ? "-" : flags.prompt_file;
  return read_text(path, max_text_bytes(kMaxTokens));
}

// A model with a chat template was trained to answer turns, so a prompt is one unless --raw.
std::vector<std::int32_t> encode_prompt(const Engine& engine, const GenerateFlags& flags,
                                        const std::string& text) {
  check_text_length(engine, text);
  const Tokenizer& tokenizer = engine.tokenizer();
  if (flags.raw || (!flags.chat && flags.system.empty() && !tokenizer.has_chat_template())) {
    return tokenizer.encode(text);
  }
  std::vector<ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  messages.push_back({"user", text});
  return tokenizer.encode_chat(messages);
}

int run_generate(const GenerateFlags& flags) {
  const RequestOptions request = request_options(flags.request);
  const std::string text = read_prompt(flags);
  Engine engine(flags.engine.model_dir, engine_options(flags.engine));
  const std::vector<std::int32_t> prompt = encode_prompt(engine, flags, text);

  arm_interrupts();
  engine.set_interrupt([] { return interrupts() > 0; });
  const Answer answer = stream_answer(engine, prompt, request, [&](std::string_view piece) {
    if (!flags.json) write_out(piece);
  });
  if (flags.json) {
    write_json(answer_json(answer, engine.memory()));
  } else {
    if (output_is_terminal()) write_out("\n");
    if (!flags.quiet) write_note(summary_line(answer, engine.memory()));
  }
  return interrupts() > 0 ? kInterruptedStatus : 0;
}

}  // namespace

Command add_generate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue or answer one prompt");
  CLI::Option* prompt =
      command->add_option("--prompt", flags->prompt, "The prompt; without one, standard input");
  command->add_option("--prompt-file", flags->prompt_file, "Read the prompt from a file")
      ->excludes(prompt);
  CLI::Option* raw = command->add_flag(
      "--raw", flags->raw, "Continue the text as it is, without the model's chat template");
  command
      ->add_flag("--chat", flags->chat,
                 "Ask the prompt as a user's turn; the default where the model has a template")
      ->excludes(raw);
  command->add_option("--system", flags->system, "System message before the prompt")->excludes(raw);
  command->add_flag("--json", flags->json, "Print one JSON object instead of the text");
  command->add_flag("--quiet", flags->quiet, "No summary on standard error");
  command->add_option("--logprobs", flags->request.options.logprobs,
                      "With --json: log-probability of each token and of the k likeliest");
  add_engine_flags(*command, flags->engine);
  add_request_flags(*command, flags->request);
  return {command, [flags] { return run_generate(*flags); }};
}

}  // namespace moa_rt::cli
