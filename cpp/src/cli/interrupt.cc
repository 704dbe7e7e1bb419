#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include "cli/command.h"

namespace moa_rt::cli {
namespace {

// A signal handler can reach nothing but static storage.
volatile sig_atomic_t armed = 0;
volatile sig_atomic_t count = 0;

constexpr int kPatience = 3;

void on_interrupt(int) {
  count = count + 1;
  if (armed == 0 || count >= kPatience) _exit(kInterruptedStatus);
}

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a waiting read() of the keyboard must return
  sigaction(SIGINT, &action, nullptr);
}

void arm_interrupts() { armed = 1; }
int interrupts() noexcept { return count; }
void reset_interrupts() noexcept { count = 0; }

}  // namespace moa_rt::cli
