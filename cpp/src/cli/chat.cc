// moa-rt chat: a conversation at the keyboard.
#include <algorithm>
#include <memory>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/conversation.h"
#include "cli/interrupt.h"
#include "cli/options.h"

namespace moa_rt::cli {
namespace {

// A conversation's cache is allocated for its whole budget when it opens, so a model's own limit
// (131072 tokens and more) would be too much to take unasked.
constexpr std::int64_t kDefaultContext = 8192;

struct ChatFlags {
  EngineFlags engine;
  RequestFlags request;
  std::string system;
  std::int64_t context = 0;
  bool quiet = false;
};

constexpr const char* kHelp =
    "/reset forgets the conversation, /quit leaves, Ctrl-C stops an answer\n";

void answer_turn(Engine& engine, Conversation& conversation, const ChatFlags& flags,
                 const RequestOptions& options, const std::string& text) {
  try {
    check_text_length(engine, text);
    const Answer answer =
        conversation.ask(text, options, [](std::string_view piece) { write_out(piece); });
    write_out("\n");
    if (!flags.quiet) write_note(summary_line(answer, engine.memory()));
  } catch (const ArgumentError& error) {
    write_error(error.code(), error.what());
    write_note("moa_rt: the turn was not taken; /reset starts again\n");
  } catch (const StateError& error) {
    write_error(error.code(), error.what());
  }
}

// Returns false when the conversation is over.
bool obey(const std::string& line, Conversation& conversation) {
  if (line == "/quit" || line == "/exit") return false;
  if (line == "/reset") {
    conversation.reset();
    write_note("moa_rt: conversation forgotten\n");
  } else {
    write_note(kHelp);
  }
  return true;
}

int run_chat(const ChatFlags& flags) {
  const RequestOptions options = request_options(flags.request);
  Engine engine(flags.engine.model_dir, engine_options(flags.engine));
  const std::int64_t limit = engine.options().max_seq_len;
  const std::int64_t budget = flags.context > 0 ? flags.context : std::min(limit, kDefaultContext);
  Conversation conversation(engine, flags.system, budget);

  arm_interrupts();
  engine.set_interrupt([] { return interrupts() > 1; });
  if (input_is_terminal()) write_note(kHelp);
  LineReader input;
  std::string line;
  for (;;) {
    if (input_is_terminal()) write_note("> ");
    const LineReader::Result result = input.next(line, max_text_bytes(limit));
    if (interrupts() > 1) return kInterruptedStatus;
    if (result == LineReader::Result::kEnd) return 0;
    if (result == LineReader::Result::kInterrupted) {
      write_note("\nmoa_rt: Ctrl-C again leaves\n");
      continue;
    }
    reset_interrupts();
    if (line.empty()) continue;
    if (line[0] == '/') {
      if (!obey(line, conversation)) return 0;
      continue;
    }
    answer_turn(engine, conversation, flags, options, line);
    forget_wakeups();
    if (interrupts() > 1) return kInterruptedStatus;
  }
}

}  // namespace

Command add_chat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command = app.add_subcommand("chat", "Talk with the model, one line a turn");
  command->add_option("--system", flags->system, "System message at the start");
  command
      ->add_option("--context", flags->context,
                   "Tokens of the whole conversation; 0: the engine's limit, at most 8192")
      ->capture_default_str();
  command->add_flag("--quiet", flags->quiet, "No summary after an answer");
  add_engine_flags(*command, flags->engine);
  add_request_flags(*command, flags->request);
  return {command, [flags] { return run_chat(*flags); }};
}

}  // namespace moa_rt::cli
