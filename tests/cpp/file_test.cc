#include "io/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <exception>
#include <filesystem>
#include <fstream>
#include <thread>

#include "io/transfer.h"
#include "support/errors.h"
#include "support/temp_dir.h"

namespace moa_rt {
namespace {

using testing::expect_error;
using testing::TempDir;

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::vector<std::string> entries(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

// A resource limit of this process, put back at the end of the scope.
class LimitGuard {
 public:
  LimitGuard(__rlimit_resource resource, rlim_t value) : resource_(resource) {
    getrlimit(resource, &before_);
    rlimit limit = before_;
    limit.rlim_cur = value;
    setrlimit(resource, &limit);
  }
  ~LimitGuard() { setrlimit(resource_, &before_); }

 private:
  __rlimit_resource resource_;
  rlimit before_{};
};

int errno_of(const std::string& path) {
  try {
    File file(path);
  } catch (const IoError& error) {
    EXPECT_EQ(error.path(), path);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(path));
    return error.error_number();
  }
  return 0;
}

TEST(File, ReadsParts) {
  const TempDir dir;
  const std::string path = dir.path() + "/data";
  write_bytes(path, "0123456789");
  const File file(path);
  EXPECT_EQ(file.size(), 10);
  std::string part(4, ' ');
  file.read_at(3, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(part, "3456");
  file.check_unchanged();
}

TEST(File, MovedFromFileLetsGoOfItsDescriptor) {
  const TempDir dir;
  write_bytes(dir.path() + "/a", "aaaa");
  write_bytes(dir.path() + "/b", "bb");
  File first(dir.path() + "/a");
  File second(std::move(first));
  second = File(dir.path() + "/b");
  std::string text(2, ' ');
  second.read_at(0, std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(text, "bb");
  EXPECT_EQ(second.path(), dir.path() + "/b");
}

TEST(File, A22_missing_and_dangling_link) {
  const TempDir dir;
  EXPECT_EQ(errno_of(dir.path() + "/none"), ENOENT);
  std::filesystem::create_symlink(dir.path() + "/none", dir.path() + "/link");
  EXPECT_EQ(errno_of(dir.path() + "/link"), ENOENT);
  expect_error<IoError>([&] { File file(dir.path() + "/none"); }, {"No such file or directory"});
}

TEST(File, A22_directory) {
  const TempDir dir;
  EXPECT_EQ(errno_of(dir.path()), EISDIR);
  expect_error<IoError>([&] { File file(dir.path()); }, {"a directory", "Is a directory"});
}

TEST(File, A22_fifo_does_not_hang) {
  const TempDir dir;
  const std::string path = dir.path() + "/fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const auto start = std::chrono::steady_clock::now();
  expect_error<IoError>([&] { File file(path); }, {"a FIFO", "want a regular file"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST(File, A22_device) {
  expect_error<IoError>([] { File file("/dev/zero"); }, {"/dev/zero", "a device"});
}

TEST(File, A22_socket) {
  const TempDir dir;
  const std::string path = dir.path() + "/socket";
  const int descriptor = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  ASSERT_EQ(bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(errno_of(path), ENXIO);
  close(descriptor);
}

TEST(File, A22_no_permission) {
  const TempDir dir;
  const std::string path = dir.path() + "/secret";
  write_bytes(path, "x");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  // The superuser may read everything, so ask as somebody else.
  const bool superuser = geteuid() == 0;
  if (superuser) {
    ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
    ASSERT_EQ(seteuid(65534), 0);
  }
  const int number = errno_of(path);
  if (superuser) {
    ASSERT_EQ(seteuid(0), 0);
  }
  EXPECT_EQ(number, EACCES);
}

TEST(File, A22_empty_name_and_nul) {
  EXPECT_EQ(errno_of(""), ENOENT);
  expect_error<IoError>([] { File file(std::string("/etc/passwd\0.safetensors", 24)); },
                        {"NUL byte", "\\x00"});
}

TEST(Transfer, I5_interrupted_and_short_calls_are_continued) {
  const std::string source = "abcdefghij";
  std::string target(10, ' ');
  int calls = 0;
  const Transfer result = transfer_all(10, [&](std::size_t done, std::size_t rest) -> std::int64_t {
    EXPECT_EQ(done + rest, 10u);
    if (++calls % 2 == 1) {
      errno = EINTR;
      return -1;
    }
    const std::size_t part = std::min<std::size_t>(rest, 3);
    source.copy(target.data() + done, part, done);
    return static_cast<std::int64_t>(part);
  });
  EXPECT_EQ(result.done, 10u);
  EXPECT_EQ(result.error_number, 0);
  EXPECT_EQ(target, source);
  EXPECT_EQ(calls, 8);  // 3 + 3 + 3 + 1, each after one interruption
}

TEST(Transfer, I5_an_error_tells_how_far_it_got) {
  const Transfer result = transfer_all(10, [&](std::size_t done, std::size_t) -> std::int64_t {
    if (done == 0) return 4;
    errno = EIO;
    return -1;
  });
  EXPECT_EQ(result.done, 4u);
  EXPECT_EQ(result.error_number, EIO);
}

TEST(File, I6_shrunk_file_is_an_error_not_a_signal) {
  const TempDir dir;
  const std::string path = dir.path() + "/data";
  write_bytes(path, std::string(10000, 'x'));
  const File file(path);
  std::filesystem::resize_file(path, 5000);
  std::string text(10000, ' ');
  expect_error<IoError>([&] { file.read_at(0, std::as_writable_bytes(std::span(text))); },
                        {path, "got 5000 bytes", "want 10000", "shorter"});
  expect_error<IoError>([&] { file.check_unchanged(); }, {"size", "got 5000", "want 10000"});
}

TEST(File, I6_rewritten_file_is_noticed) {
  const TempDir dir;
  const std::string path = dir.path() + "/data";
  write_bytes(path, "before");
  std::filesystem::last_write_time(
      path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const File file(path);
  file.check_unchanged();
  std::ofstream(path, std::ios::binary | std::ios::in) << "after!";
  expect_error<IoError>([&] { file.check_unchanged(); }, {path, "changed while it was read"});
}

TEST(File, I13_no_descriptors_left) {
  const TempDir dir;
  const std::string path = dir.path() + "/data";
  write_bytes(path, "x");
  const int next = dup(0);
  close(next);
  // Looked at only after the limit is gone: sanitizers need descriptors of their own.
  std::exception_ptr error;
  {
    const LimitGuard limit(RLIMIT_NOFILE, static_cast<rlim_t>(next));
    try {
      File file(path);
    } catch (...) {
      error = std::current_exception();
    }
  }
  ASSERT_NE(error, nullptr);
  expect_error<ResourceError>([&] { std::rethrow_exception(error); },
                              {path, "Too many open files"});
  EXPECT_EQ(File(path).size(), 1);
}

TEST(File, I13_files_are_closed) {
  const TempDir dir;
  const std::string path = dir.path() + "/data";
  write_bytes(path, "x");
  const int next = dup(0);
  close(next);
  const LimitGuard limit(RLIMIT_NOFILE, static_cast<rlim_t>(next + 2));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(File(path).size(), 1);
    EXPECT_THROW(File file(dir.path()), IoError);
  }
}

TEST(ReadText, ReadsAndLimits) {
  const TempDir dir;
  const std::string path = dir.path() + "/text";
  write_bytes(path, std::string("a\0b", 3));
  EXPECT_EQ(read_text(path, 3), std::string("a\0b", 3));
  expect_error<FormatError>([&] { read_text(path, 2); }, {path, "got 3 bytes", "at most 2"});
  write_bytes(path, "");
  EXPECT_EQ(read_text(path, 0), "");
}

TEST(ReadText, HugeSparseFileIsRefusedBeforeItIsRead) {
  const TempDir dir;
  const std::string path = dir.path() + "/huge";
  write_bytes(path, "x");
  std::filesystem::resize_file(path, std::uintmax_t{1} << 40);
  expect_error<FormatError>([&] { read_text(path, 1 << 20); }, {"1099511627776 bytes"});
}

TEST(WriteText, ReplacesTheWholeFile) {
  const TempDir dir;
  const std::string path = dir.path() + "/text";
  write_text_atomically(path, "a longer first text");
  write_text_atomically(path, "second");
  EXPECT_EQ(read_text(path, 100), "second");
  EXPECT_THAT(entries(dir.path()), ::testing::ElementsAre("text"));
}

TEST(WriteText, WorksWithoutADirectoryInThePath) {
  const TempDir dir;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  write_text_atomically("plain", "text");
  std::filesystem::current_path(before);
  EXPECT_EQ(read_text(dir.path() + "/plain", 100), "text");
}

TEST(WriteText, MissingDirectoryIsAnIoError) {
  const TempDir dir;
  const std::string path = dir.path() + "/none/text";
  expect_error<IoError>([&] { write_text_atomically(path, "x"); },
                        {path, "No such file or directory"});
}

TEST(WriteText, I4_full_disk_leaves_the_old_file_and_no_temporary) {
  const TempDir dir;
  const std::string path = dir.path() + "/text";
  write_text_atomically(path, "old");
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  {
    const LimitGuard limit(RLIMIT_FSIZE, 4096);
    expect_error<ResourceError>([&] { write_text_atomically(path, std::string(100000, 'x')); },
                                {path, "write", "File too large"});
  }
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text(path, 100), "old");
  EXPECT_THAT(entries(dir.path()), ::testing::ElementsAre("text"));
}

TEST(WriteText, I4_target_that_cannot_be_replaced_leaves_no_temporary) {
  const TempDir dir;
  const std::string path = dir.path() + "/taken";
  std::filesystem::create_directory(path);
  expect_error<IoError>([&] { write_text_atomically(path, "x"); }, {path, "rename"});
  EXPECT_THAT(entries(dir.path()), ::testing::ElementsAre("taken"));
}

TEST(WriteText, StaleTemporaryOfTheSameNameDoesNotStopIt) {
  const TempDir dir;
  const std::string path = dir.path() + "/text";
  write_bytes(path + ".tmp-" + std::to_string(getpid()) + "-0", "stale");
  write_text_atomically(path, "new");
  EXPECT_EQ(read_text(path, 100), "new");
}

TEST(Paths, JoinAndExist) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
  const TempDir dir;
  write_bytes(dir.path() + "/x", "");
  EXPECT_TRUE(file_exists(dir.path() + "/x"));
  EXPECT_FALSE(file_exists(dir.path() + "/y"));
  EXPECT_FALSE(file_exists(dir.path()));
}

}  // namespace
}  // namespace moa_rt
