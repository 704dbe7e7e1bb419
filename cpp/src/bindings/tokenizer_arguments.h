// Ids and chats from Python values.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "moa_rt/tokenizer.h"

namespace moa_rt::bindings {

std::int32_t to_id(pybind11::handle value, const std::string& name);
// [{"role": str, "content": str}, ...]
std::vector<ChatMessage> to_messages(pybind11::handle value, const std::string& name);

}  // namespace moa_rt::bindings
