// moa-rt: text in, text out, from the command line.
#include <signal.h>

#include <exception>
#include <new>
#include <vector>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "moa_rt/error.h"

namespace moa_rt::cli {
namespace {

// Help and version end with status 0, everything CLI11 complains about is a bad argument.
int report(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  write_error(ErrorCode::kArgument, error.what());
  write_note("Try moa-rt --help, or moa-rt COMMAND --help.\n");
  return exit_code(ErrorCode::kArgument);
}

int fail(ErrorCode code, const char* message) {
  write_error(code, message);
  return exit_code(code);
}

int run(int argc, char** argv) {
  CLI::App app("Inference for decoders whose attention heads each keep their own span", "moa-rt");
  app.set_version_flag("--version", "moa-rt " MOA_RT_VERSION);
  app.require_subcommand(1);
  const std::vector<Command> commands = {add_generate(app), add_chat(app), add_bench(app),
                                         add_inspect(app)};
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return report(app, error);
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return fail(ErrorCode::kInternal, "no command ran");
}

int guarded_run(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const BrokenPipe&) {
    return exit_code(ErrorCode::kIo);
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::kResource, "out of memory");
  } catch (const std::exception& error) {
    return fail(ErrorCode::kInternal, error.what());
  }
}

}  // namespace
}  // namespace moa_rt::cli

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is then an error of write(), handled in one place
  moa_rt::cli::catch_interrupts();
  return moa_rt::cli::guarded_run(argc, argv);
}
