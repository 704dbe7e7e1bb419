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

}  // namespace moa_rt::cli
