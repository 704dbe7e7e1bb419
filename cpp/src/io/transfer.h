// Moves a whole buffer through a system call that may be interrupted or move only a part.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace moa_rt {

struct Transfer {
  std::size_t done = 0;  // bytes moved
  int error_number = 0;  // errno of the call that failed, 0 if none did
};

// call(done, rest) moves at most `rest` bytes from position `done` and returns how many, 0 at the
// end, or -1 with errno set. EINTR is retried (I5). Stops early at the end of the file or on an
// error.
template <typename Call>
Transfer transfer_all(std::size_t bytes, Call&& call) {
  Transfer transfer;
  while (transfer.done < bytes) {
    const std::int64_t moved = call(transfer.done, bytes - transfer.done);
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) {
      transfer.error_number = errno;
      break;
    }
    if (moved == 0) break;
    transfer.done += static_cast<std::size_t>(moved);
  }
  return transfer;
}

}  // namespace moa_rt
