#include "cli/console.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/interrupt.h"

namespace moa_rt::cli {
namespace {

constexpr std::size_t kBlock = 1 << 16;

// Appends what one read() delivers. False: the end.
bool read_some(int fd, const std::string& path, std::string& text) {
  char block[kBlock];
  ssize_t got = -1;
  do {
    got = read(fd, block, sizeof block);
  } while (got < 0 && errno == EINTR);
  if (got < 0) throw IoError(path + ": read: " + std::strerror(errno), errno, path);
  text.append(block, static_cast<std::size_t>(got));
  return got > 0;
}

[[noreturn]] void fail_length(const std::string& path, std::size_t max_bytes) {
  throw ArgumentError(path + ": text: got more than " + std::to_string(max_bytes) +
                      " bytes, want at most that");
}

// Closes a descriptor it opened itself.
struct InputFile {
  explicit InputFile(const std::string& path)
      : fd(path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd < 0) throw IoError(path + ": open: " + std::strerror(errno), errno, path);
  }
  ~InputFile() {
    if (fd != STDIN_FILENO) close(fd);
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  int fd;
};

}  // namespace

void write_out(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDOUT_FILENO, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EPIPE) {
      throw BrokenPipe{};
    } else if (errno == ENOSPC || errno == EDQUOT) {
      throw ResourceError(std::string("standard output: write: ") + std::strerror(errno));
    } else if (errno != EINTR) {
      throw IoError(std::string("standard output: write: ") + std::strerror(errno), errno, "");
    }
  }
}

void write_json(const nlohmann::ordered_json& json) {
  write_out(json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void write_note(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

void write_error(ErrorCode code, std::string_view message) noexcept {
  write_note("moa_rt: error[");
  write_note(error_name(code));
  write_note("]: ");
  write_note(message);
  write_note("\n");
}

bool input_is_terminal() { return isatty(STDIN_FILENO) == 1; }
bool output_is_terminal() { return isatty(STDOUT_FILENO) == 1; }

std::string read_text(const std::string& path, std::size_t max_bytes) {
  const std::string name = path == "-" ? "standard input" : path;
  const InputFile file(path);
  std::string text;
  while (read_some(file.fd, name, text)) {
    if (text.size() > max_bytes) fail_length(name, max_bytes);
  }
  return text;
}

LineReader::Result LineReader::next(std::string& line, std::size_t max_bytes) {
  const std::string name = "standard input";
  std::size_t searched = 0;
  for (;;) {
    const std::size_t newline = buffer_.find('\n', searched);
    if (newline != std::string::npos) {
      line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return Result::kLine;
    }
    if (buffer_.size() > max_bytes) fail_length(name, max_bytes);
    searched = buffer_.size();
    if (!wait_for_input(STDIN_FILENO)) return Result::kInterrupted;
    if (!read_some(STDIN_FILENO, name, buffer_)) {
      line = std::move(buffer_);
      buffer_.clear();
      return line.empty() ? Result::kEnd : Result::kLine;
    }
  }
}

}  // namespace moa_rt::cli
