// Error texts of one form: file, item, field, got, want.
#pragma once

#include <string>
#include <string_view>

namespace moa_rt {

// Printable form of a name from outside: control bytes and quotes escaped, cut at 200 bytes.
std::string escape_name(std::string_view name);

// The parts of a message; empty parts are left out.
//   describe({.file = "a.safetensors", .item = "tensor \"x\"", .field = "data_offsets",
//             .got = "[0,4]", .want = "4000000 bytes for F32[1000000]"})
//   == "a.safetensors: tensor \"x\": data_offsets: got [0,4], want 4000000 bytes for F32[1000000]"
struct Message {
  std::string_view file = {};
  std::string_view item = {};
  std::string_view field = {};
  std::string_view got = {};
  std::string_view want = {};
  std::string_view note = {};  // anything else, last
};
std::string describe(const Message& message);

// "tensor \"<escaped name>\"", the item of most messages about weights.
std::string quoted_item(std::string_view kind, std::string_view name);

}  // namespace moa_rt
