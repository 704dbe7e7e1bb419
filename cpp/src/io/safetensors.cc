#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <tuple>

#include "core/checked.h"
#include "core/message.h"
#include "io/safetensors_header.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

struct FileType {
  std::string_view name;
  std::uint64_t bits;
};
// Types of whole bytes, all of which can be located; only BF16, F16 and F32 can be weights.
constexpr std::array<FileType, 17> kTypes = {{{"BF16", 16},
                                              {"F16", 16},
                                              {"F32", 32},
                                              {"F64", 64},
                                              {"F8_E4M3", 8},
                                              {"F8_E5M2", 8},
                                              {"F8_E8M0", 8},
                                              {"F8_E4M3FNUZ", 8},
                                              {"F8_E5M2FNUZ", 8},
                                              {"I8", 8},
                                              {"I16", 16},
                                              {"I32", 32},
                                              {"I64", 64},
                                              {"U8", 8},
                                              {"U16", 16},
                                              {"U32", 32},
                                              {"BOOL", 8}}};
// Known to the format, but narrower than a byte.
constexpr std::array<FileType, 3> kNarrowTypes = {{{"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}}};

std::optional<DType> model_dtype(std::string_view name) {
  if (name == "F32") return DType::kF32;
  if (name == "BF16") return DType::kBF16;
  if (name == "F16") return DType::kF16;
  return std::nullopt;
}

std::string shape_text(const SafetensorsEntry& entry) {
  std::string text = entry.dtype + "[";
  for (std::size_t i = 0; i < entry.shape.size(); ++i) {
    if (i > 0) text += ',';
    text += std::to_string(entry.shape[i]);
  }
  return escape_name(text + "]");
}

std::string offsets_text(const SafetensorsEntry& entry) {
  return std::string("[") + std::to_string(entry.begin) + "," + std::to_string(entry.end) + "]";
}

[[noreturn]] void fail(const std::string& path, const SafetensorsEntry& entry,
                       std::string_view field, std::string_view got, std::string_view want) {
  throw FormatError(describe({.file = path,
                              .item = quoted_item("tensor", entry.name),
                              .field = field,
                              .got = got,
                              .want = want}));
}

CheckedSize element_count(const SafetensorsEntry& entry) {
  CheckedSize count = 1;
  for (const std::uint64_t size : entry.shape) count = count * CheckedSize(size);
  return count;
}

[[noreturn]] void refuse_dtype(const std::string& path, const SafetensorsEntry& entry) {
  const auto* narrow = std::ranges::find(kNarrowTypes, entry.dtype, &FileType::name);
  if (narrow != kNarrowTypes.end()) {
    const CheckedSize bits = element_count(entry) * CheckedSize(narrow->bits);
    if (!bits.valid() || bits.value() % 8 != 0) {
      fail(path, entry, "shape", shape_text(entry), "a whole number of bytes");
    }
  }
  std::string supported;
  for (const FileType& type : kTypes) {
    if (!supported.empty()) supported += ", ";
    supported += type.name;
  }
  throw UnsupportedError(describe({.file = path,
                                   .item = quoted_item("tensor", entry.name),
                                   .field = "dtype",
                                   .got = "\"" + escape_name(entry.dtype) + "\"",
                                   .want = "one of " + supported}));
}

// A15, A16, A17: shape x dtype against the bytes the offsets span.
void check_size(const std::string& path, const SafetensorsEntry& entry) {
  const auto* type = std::ranges::find(kTypes, entry.dtype, &FileType::name);
  if (type == kTypes.end()) refuse_dtype(path, entry);
  if (entry.begin > entry.end) {
    fail(path, entry, "data_offsets", offsets_text(entry), "begin <= end");
  }
  const CheckedSize bytes = element_count(entry) * CheckedSize(type->bits / 8);
  if (!bytes.valid()) {
    fail(path, entry, "shape", shape_text(entry), "a size below 2^64 bytes: the product overflows");
  }
  if (!(bytes == entry.end - entry.begin)) {
    fail(path, entry, "data_offsets", offsets_text(entry),
         std::to_string(bytes.value()) + " bytes for " + shape_text(entry));
  }
}

// A13, A14: the tensors cover the data section without gap, overlap or rest. `entries` are sorted.
void check_cover(const std::string& path, const std::vector<SafetensorsEntry>& entries,
                 std::uint64_t data_bytes) {
  const SafetensorsEntry* before = nullptr;
  std::uint64_t covered = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != covered) {
      const std::string kind = entry.begin < covered ? "overlap with " : "gap after ";
      const std::string neighbour =
          before == nullptr ? "the start of the data" : quoted_item("tensor", before->name);
      fail(path, entry, "data_offsets", offsets_text(entry),
           "a begin of " + std::to_string(covered) + ": " + kind + neighbour);
    }
    covered = entry.end;
    before = &entry;
    if (covered > data_bytes) {
      fail(path, entry, "data_offsets", offsets_text(entry),
           "an end within the " + std::to_string(data_bytes) +
               " bytes of data: " + std::to_string(covered - data_bytes) + " bytes are missing");
    }
  }
  if (covered == data_bytes) return;
  throw FormatError(describe(
      {.file = path,
       .field = "data",
       .got = std::to_string(data_bytes) + " bytes",
       .want = std::to_string(covered),
       .note = std::to_string(data_bytes - covered) + " bytes are left after the last tensor"}));
}

// B12: what people have when a download went wrong.
void check_not_text(const File& file) {
  std::array<char, 64> start{};
  const auto size = static_cast<std::size_t>(
      std::min<std::int64_t>(file.size(), static_cast<std::int64_t>(start.size())));
  file.read_at(0, std::as_writable_bytes(std::span(start).first(size)));
  std::string text(start.data(), size);
  if (text.starts_with("version https://git-lfs")) {
    throw FormatError(
        describe({.file = file.path(),
                  .note = "this is a Git LFS pointer, not the weights; fetch them with: "
                          "git lfs pull"}));
  }
  text.erase(0, text.find_first_not_of(" \t\r\n"));
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml")) {
    throw FormatError(describe(
        {.file = file.path(), .note = "this looks like HTML, an error page saved as weights"}));
  }
}

std::uint64_t read_header_length(const File& file) {
  const auto file_bytes = static_cast<std::uint64_t>(file.size());
  if (file_bytes < kLengthBytes) {
    throw FormatError(describe(
        {.file = file.path(),
         .note = "file has " + std::to_string(file_bytes) + " bytes, header length needs 8"}));
  }
  std::array<std::byte, kLengthBytes> bytes{};
  file.read_at(0, bytes);
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) {
    length = (length << 8) | std::to_integer<std::uint64_t>(bytes[i]);
  }
  if (length > SafetensorsFile::kMaxHeaderBytes) {
    throw FormatError(describe({.file = file.path(),
                                .note = "header " + std::to_string(length) + " bytes, limit " +
                                        std::to_string(SafetensorsFile::kMaxHeaderBytes)}));
  }
  if (length > file_bytes - kLengthBytes) {
    throw FormatError(
        describe({.file = file.path(),
                  .note = "header length " + std::to_string(length) + " but the file has " +
                          std::to_string(file_bytes) + " bytes"}));
  }
  return length;
}

SafetensorsHeader read_header(const File& file, std::uint64_t length) {
  std::string text(length, '\0');
  file.read_at(kLengthBytes, std::as_writable_bytes(std::span(text)));
  return parse_safetensors_header(text, file.path(), kLengthBytes);
}

TensorInfo located(SafetensorsEntry&& entry, std::int64_t data_offset) {
  TensorInfo info;
  info.known_dtype = model_dtype(entry.dtype);
  info.file_offset = data_offset + static_cast<std::int64_t>(entry.begin);
  info.bytes = static_cast<std::int64_t>(entry.end - entry.begin);
  info.name = std::move(entry.name);
  info.dtype = std::move(entry.dtype);
  info.shape = std::move(entry.shape);
  return info;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  check_not_text(file_);
  const std::uint64_t header_bytes = read_header_length(file_);
  data_offset_ = static_cast<std::int64_t>(kLengthBytes + header_bytes);
  const auto data_bytes = static_cast<std::uint64_t>(file_.size() - data_offset_);
  // An empty header is no JSON, but it says the same as {}.
  SafetensorsHeader header =
      header_bytes == 0 ? SafetensorsHeader{} : read_header(file_, header_bytes);
  metadata_ = std::move(header.metadata);
  std::vector<SafetensorsEntry>& entries = header.entries;
  for (const SafetensorsEntry& entry : entries) check_size(path, entry);
  std::ranges::sort(entries, {}, [](const SafetensorsEntry& entry) {
    return std::tie(entry.begin, entry.end, entry.name);
  });
  check_cover(path, entries, data_bytes);
  if (entries.empty()) throw MismatchError(describe({.file = path, .note = "no tensors"}));
  tensors_.reserve(entries.size());
  for (SafetensorsEntry& entry : entries) {
    index_.emplace(entry.name, tensors_.size());
    tensors_.push_back(located(std::move(entry), data_offset_));
  }
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void SafetensorsFile::read(const TensorInfo& tensor, std::int64_t offset,
                           std::span<std::byte> out) const {
  const auto bytes = static_cast<std::int64_t>(out.size());
  if (offset < 0 || bytes > tensor.bytes || offset > tensor.bytes - bytes) {
    throw ArgumentError(describe(
        {.file = path(),
         .item = quoted_item("tensor", tensor.name),
         .got = "bytes from " + std::to_string(offset) + ", " + std::to_string(bytes) + " of them",
         .want = "within " + std::to_string(tensor.bytes)}));
  }
  file_.read_at(tensor.file_offset + offset, out);
}

}  // namespace moa_rt
