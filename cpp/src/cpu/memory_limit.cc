#include "cpu/memory_limit.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>

#include "core/small_file.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

// The first number of a file; nothing for a missing file or the word "max".
std::optional<std::int64_t> read_number(const std::string& path) {
  const std::string file = read_small_file(path);
  std::string_view text = file;
  return parse_integer(next_word(text));
}

// Takes the next line off `text`.
std::string_view next_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  return line;
}

// The number that follows `key` at the start of a line.
std::optional<std::int64_t> read_field(const std::string& path, std::string_view key) {
  const std::string file = read_small_file(path);
  for (std::string_view text = file; !text.empty();) {
    std::string_view line = next_line(text);
    if (next_word(line) == key) return parse_integer(next_word(line));
  }
  return std::nullopt;
}

std::int64_t system_available(const std::string& root) {
  const auto kibibytes = read_field(root + "/proc/meminfo", "MemAvailable:");
  return kibibytes ? *kibibytes * 1024 : kUnlimited;
}

struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* usage;
  const char* reclaimable;  // key in memory.stat: page cache that is given up before anything fails
};
constexpr CgroupFiles kVersion2{"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};
constexpr CgroupFiles kVersion1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                "memory.usage_in_bytes", "total_inactive_file"};

// Walks from the process's group up to the mount: every level may set a limit. A container often
// sees its own group as the mount itself, so a path that is not there is passed over.
std::int64_t cgroup_available(const std::string& root, const CgroupFiles& files,
                              std::string group) {
  std::int64_t available = kUnlimited;
  while (true) {
    const std::string folder = root + files.mount + group + "/";
    const auto limit = read_number(folder + files.limit);
    const auto usage = read_number(folder + files.usage);
    if (limit && usage) {
      const std::int64_t cache = read_field(folder + "memory.stat", files.reclaimable).value_or(0);
      available = std::min(available, *limit - *usage + cache);
    }
    const std::size_t slash = group.rfind('/');
    if (slash == std::string::npos) return available;
    group.resize(slash);
  }
}

// Lines of /proc/self/cgroup are "id:controllers:path"; version 2 has id 0 and no controllers.
std::int64_t cgroup_available(const std::string& root) {
  std::int64_t available = kUnlimited;
  const std::string file = read_small_file(root + "/proc/self/cgroup");
  for (std::string_view text = file; !text.empty();) {
    const std::string line(next_line(text));
    const std::size_t first = line.find(':');
    if (first == std::string::npos) continue;
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers == ",,") {
      available = std::min(available, cgroup_available(root, kVersion2, group));
    } else if (controllers.find(",memory,") != std::string::npos) {
      available = std::min(available, cgroup_available(root, kVersion1, group));
    }
  }
  return available;
}

std::int64_t address_space_available(const std::string& root) {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  const std::int64_t pages = read_number(root + "/proc/self/statm").value_or(0);
  return static_cast<std::int64_t>(limit.rlim_cur) - pages * sysconf(_SC_PAGESIZE);
}

}  // namespace

std::int64_t free_host_bytes(const std::string& root) {
  const std::int64_t available =
      std::min({system_available(root), cgroup_available(root), address_space_available(root)});
  return std::max<std::int64_t>(available, 0);
}

}  // namespace moa_rt
