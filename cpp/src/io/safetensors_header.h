// The JSON header of a safetensors file, as written: no offset has been compared with anything yet.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace moa_rt {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;  // data_offsets, from the start of the data section
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of the file
  std::map<std::string, std::string> metadata;
};

// Bounds on what a header may hold; published models stay far below them.
inline constexpr std::size_t kMaxSafetensorsTensors = 200'000;
inline constexpr std::size_t kMaxSafetensorsName = 1024;  // bytes
inline constexpr std::size_t kMaxSafetensorsRank = 8;
inline constexpr int kMaxSafetensorsDepth = 8;

// Throws FormatError naming `path`, the tensor and the field. Works in one pass and keeps nothing
// but its result, so that a hostile header costs no more memory than a good one. `file_offset` of
// the header's first byte is added to the offsets in messages.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& path,
                                           std::size_t file_offset);

}  // namespace moa_rt
