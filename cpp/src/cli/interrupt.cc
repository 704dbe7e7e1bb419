#include "cli/interrupt.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "cli/command.h"

namespace moa_rt::cli {
namespace {

// A signal handler can reach nothing but static storage.
volatile sig_atomic_t armed = 0;
volatile sig_atomic_t count = 0;

// The handler writes a byte, so that waiting for input can wait for a signal too, without a gap.
int wakeup_pipe[2] = {-1, -1};

constexpr int kPatience = 3;

void on_interrupt(int) {
  const int saved_errno = errno;
  count = count + 1;
  if (armed == 0 || count >= kPatience) _exit(kInterruptedStatus);
  const char byte = 0;
  [[maybe_unused]] const ssize_t written = write(wakeup_pipe[1], &byte, 1);
  errno = saved_errno;
}

}  // namespace

void catch_interrupts() {
  // Without a pipe (no descriptor left) Ctrl-C still ends the process, at the third time.
  [[maybe_unused]] const int failed = pipe2(wakeup_pipe, O_CLOEXEC | O_NONBLOCK);
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

void arm_interrupts() { armed = 1; }
int interrupts() noexcept { return count; }
void reset_interrupts() noexcept { count = 0; }

bool wait_for_input(int fd) {
  pollfd fds[2] = {{fd, POLLIN, 0}, {wakeup_pipe[0], POLLIN, 0}};
  while (poll(fds, 2, -1) < 0) {
    if (errno != EINTR) return true;  // let read() say what is wrong
  }
  if (fds[1].revents == 0) return true;
  forget_wakeups();
  return false;
}

void forget_wakeups() noexcept {
  char bytes[16];
  while (read(wakeup_pipe[0], bytes, sizeof bytes) > 0) {
  }
}

}  // namespace moa_rt::cli
