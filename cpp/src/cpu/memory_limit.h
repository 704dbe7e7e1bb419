// How much memory this process can still take.
#pragma once

#include <cstdint>
#include <string>

namespace moa_rt {

// The least of what the system has available, what the process's cgroup (version 1 or 2) leaves and
// what RLIMIT_AS leaves. `root` stands before every path, for tests; it is empty otherwise.
std::int64_t free_host_bytes(const std::string& root = "");

}  // namespace moa_rt
