// What a broken kernel does to a process.
#pragma once

namespace moa_rt::testing {

// Launches a kernel that traps and waits for it: from then on the device is lost to this process.
void lose_device();

}  // namespace moa_rt::testing
