// Strict reader of the safetensors format (huggingface/safetensors, README "Format").
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"
#include "moa_rt/types.h"

namespace moa_rt {

struct TensorInfo {
  std::string name;
  std::string dtype;                 // as written: "BF16", "F32", ...
  std::optional<DType> known_dtype;  // set for the types a model may use
  std::vector<std::uint64_t> shape;
  std::int64_t file_offset = 0;  // of the first byte, from the start of the file
  std::int64_t bytes = 0;
};

// Parses and checks the whole header before anything else is read: sizes, offsets without gap or
// overlap, shape x dtype = bytes, no duplicate key, nothing left after the last tensor.
class SafetensorsFile {
 public:
  static constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

  // Throws IoError, FormatError or UnsupportedError; every message names file, tensor and field.
  // MismatchError for a good file without a tensor.
  explicit SafetensorsFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in order of offset
  const TensorInfo* find(const std::string& name) const;               // nullptr if absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Bytes [offset, offset + out.size()) of a tensor.
  void read(const TensorInfo& tensor, std::int64_t offset, std::span<std::byte> out) const;
  const File& file() const { return file_; }
  // Of the first tensor byte: the length field and the header end there.
  std::int64_t data_offset() const { return data_offset_; }

 private:
  File file_;
  std::int64_t data_offset_ = 0;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace moa_rt
