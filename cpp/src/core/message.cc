#include "core/message.h"

#include <array>

namespace moa_rt {

std::string escape_name(std::string_view name) {
  constexpr std::size_t kMaxBytes = 200;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (out.size() >= kMaxBytes) return out + "...";
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f || byte == '"' || byte == '\\') {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += static_cast<char>(byte);
    }
  }
  return out;
}

std::string quoted_item(std::string_view kind, std::string_view name) {
  return std::string(kind) + " \"" + escape_name(name) + "\"";
}

std::string describe(const Message& message) {
  std::string out;
  for (const std::string_view part : {message.file, message.item, message.field}) {
    if (part.empty()) continue;
    if (!out.empty()) out += ": ";
    out += part;
  }
  std::string tail;
  if (!message.got.empty()) tail = "got " + std::string(message.got);
  if (!message.want.empty()) {
    if (!tail.empty()) tail += ", ";
    tail += "want " + std::string(message.want);
  }
  for (const std::string_view part : {std::string_view(tail), message.note}) {
    if (part.empty()) continue;
    if (!out.empty()) out += ": ";
    out += part;
  }
  return out;
}

}  // namespace moa_rt
