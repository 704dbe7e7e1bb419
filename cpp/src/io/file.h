// Reading and replacing files with errors that name path and errno.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moa_rt {

// A regular file open for reading. Never blocks on a FIFO, never maps: a file that shrinks gives an
// error, not a signal.
class File {
 public:
  // Throws IoError for anything that is not a readable regular file (A22), ResourceError when
  // descriptors are short.
  explicit File(const std::string& path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  const std::string& path() const { return path_; }
  std::int64_t size() const { return size_; }
  // Fills `out` from `offset`. Throws IoError for a short read.
  void read_at(std::int64_t offset, std::span<std::byte> out) const;
  // Throws IoError if size or modification time changed since it was opened (I6).
  void check_unchanged() const;

 private:
  std::string path_;
  int descriptor_ = -1;
  std::int64_t size_ = 0;
  std::int64_t modified_ns_ = 0;
};

// The whole of a text file. Throws FormatError if it is larger than `max_bytes`.
std::string read_text(const std::string& path, std::int64_t max_bytes);
// Writes beside `path`, syncs, renames: the file is either the old one or the whole new one.
void write_text_atomically(const std::string& path, const std::string& text);
bool file_exists(const std::string& path);
std::string join_path(const std::string& directory, const std::string& name);

}  // namespace moa_rt
