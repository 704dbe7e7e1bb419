// Ctrl-C.
#pragma once

namespace moa_rt::cli {

// Catches SIGINT. Until arm_interrupts() it ends the process with status 130 at once; afterwards it
// is counted, and only the third one in a row ends the process by itself.
void catch_interrupts();
void arm_interrupts();

// SIGINTs since the last reset.
int interrupts() noexcept;
void reset_interrupts() noexcept;

// Waits until `fd` can be read or has ended. False: a SIGINT came first, be it before the call.
bool wait_for_input(int fd);
// Lets the next wait_for_input() overlook the SIGINTs so far; they stay counted.
void forget_wakeups() noexcept;

}  // namespace moa_rt::cli
