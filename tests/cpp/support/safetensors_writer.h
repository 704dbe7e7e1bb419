// Builds safetensors files byte by byte, good and bad, from the format's definition.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace moa_rt::testing {

inline std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

// 8 bytes of length, the header, the data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return little_endian(header.size()) + header + data;
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace moa_rt::testing
