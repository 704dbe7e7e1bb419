#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/message.h"
#include "io/transfer.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

// Linux moves at most 2^31 - 4096 bytes a call; smaller parts also bound the time of one call.
constexpr std::size_t kMaxCallBytes = std::size_t{1} << 30;

bool is_shortage(int error_number) {
  switch (error_number) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return true;
    default:
      return false;
  }
}

// What is short (descriptors, disk, memory) is a ResourceError, everything else an IoError.
[[noreturn]] void fail(const std::string& path, const std::string& action, int error_number) {
  const std::string note = action + ": " + std::generic_category().message(error_number);
  const std::string text = describe({.file = path, .note = note});
  if (is_shortage(error_number)) throw ResourceError(text);
  throw IoError(text, error_number, path);
}

int open_retrying(const std::string& path, int flags, mode_t mode = 0) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

void check_path(const std::string& path) {
  if (path.empty()) throw IoError("file name is empty", ENOENT, path);
  // The system call would stop at the NUL and open another file.
  if (path.find('\0') != std::string::npos) {
    throw IoError(describe({.file = escape_name(path), .note = "file name contains a NUL byte"}),
                  EINVAL, path);
  }
}

std::int64_t modification_ns(const struct stat& status) {
  return static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "a special file";
}

// The new file of write_text_atomically: removed again unless it has been renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target) : target_(target) {
    for (int attempt = 0; attempt < 1000; ++attempt) {
      path_ = target + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
      descriptor_ = open_retrying(path_, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
      if (descriptor_ >= 0 || errno != EEXIST) break;
    }
    if (descriptor_ < 0) fail(target_, "create temporary file", errno);
  }
  ~TemporaryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!renamed_) ::unlink(path_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(const std::string& text) {
    const Transfer transfer = transfer_all(text.size(), [&](std::size_t done, std::size_t rest) {
      return ::write(descriptor_, text.data() + done, std::min(rest, kMaxCallBytes));
    });
    if (transfer.done != text.size()) fail(target_, "write", transfer.error_number);
    if (::fsync(descriptor_) != 0) fail(target_, "fsync", errno);
    const int result = ::close(std::exchange(descriptor_, -1));
    if (result != 0 && errno != EINTR) fail(target_, "close", errno);
  }

  void rename() {
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail(target_, "rename", errno);
    renamed_ = true;
  }

 private:
  std::string target_;
  std::string path_;
  int descriptor_ = -1;
  bool renamed_ = false;
};

void sync_directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  std::string directory = ".";
  if (slash == 0) directory = "/";
  if (slash != std::string::npos && slash > 0) directory = path.substr(0, slash);
  const int descriptor = open_retrying(directory, O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) fail(directory, "open", errno);
  const int result = ::fsync(descriptor);
  const int error_number = errno;
  ::close(descriptor);
  // Some file systems cannot sync a directory and say EINVAL; the rename itself has succeeded.
  if (result != 0 && error_number != EINVAL) fail(directory, "fsync", error_number);
}

}  // namespace

File::File(const std::string& path) : path_(path) {
  check_path(path);
  // O_NONBLOCK: opening a FIFO without a writer would wait for ever.
  descriptor_ = open_retrying(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (descriptor_ < 0) fail(path, "open", errno);
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) {
    const int error_number = errno;
    ::close(descriptor_);
    fail(path, "stat", error_number);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    const int error_number = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    throw IoError(describe({.file = path,
                            .got = kind_of(status.st_mode),
                            .want = "a regular file",
                            .note = std::generic_category().message(error_number)}),
                  error_number, path);
  }
  size_ = status.st_size;
  modified_ns_ = modification_ns(status);
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_),
      modified_ns_(other.modified_ns_) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(size_, other.size_);
  std::swap(modified_ns_, other.modified_ns_);
  return *this;
}

void File::read_at(std::int64_t offset, std::span<std::byte> out) const {
  const Transfer transfer = transfer_all(out.size(), [&](std::size_t done, std::size_t rest) {
    return ::pread(descriptor_, out.data() + done, std::min(rest, kMaxCallBytes),
                   offset + static_cast<std::int64_t>(done));
  });
  if (transfer.done == out.size()) return;
  const std::string where =
      "read at byte " + std::to_string(offset + static_cast<std::int64_t>(transfer.done));
  if (transfer.error_number != 0) fail(path_, where, transfer.error_number);
  throw IoError(describe({.file = path_,
                          .item = "read at byte " + std::to_string(offset),
                          .got = std::to_string(transfer.done) + " bytes",
                          .want = std::to_string(out.size()),
                          .note = "the file is shorter than when it was opened"}),
                0, path_);
}

void File::check_unchanged() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail(path_, "stat", errno);
  if (status.st_size != size_) {
    throw IoError(describe({.file = path_,
                            .field = "size",
                            .got = std::to_string(status.st_size),
                            .want = std::to_string(size_),
                            .note = "the file changed while it was read"}),
                  0, path_);
  }
  if (modification_ns(status) != modified_ns_) {
    throw IoError(describe({.file = path_, .note = "the file changed while it was read"}), 0,
                  path_);
  }
}

std::string read_text(const std::string& path, std::int64_t max_bytes) {
  const File file(path);
  if (file.size() > max_bytes) {
    throw FormatError(describe({.file = path,
                                .field = "size",
                                .got = std::to_string(file.size()) + " bytes",
                                .want = "at most " + std::to_string(max_bytes)}));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

void write_text_atomically(const std::string& path, const std::string& text) {
  check_path(path);
  TemporaryFile temporary(path);
  temporary.write(text);
  temporary.rename();
  sync_directory_of(path);
}

bool file_exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

std::string join_path(const std::string& directory, const std::string& name) {
  if (directory.empty() || directory.back() == '/') return directory + name;
  return directory + "/" + name;
}

}  // namespace moa_rt
