// What the readers of tokenizer.json's components share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace moa_rt {

// The parts of `component`: none for null, the list `list_field` of a "Sequence", else itself. A
// Sequence inside a Sequence is unsupported. `item` names the component in messages.
std::vector<const Json*> flatten_sequence(const Json& component, const char* list_field,
                                          const char* item, const std::string& path);

// The value of "pattern": {"String": s}, not empty. Throws UnsupportedError for {"Regex": r}.
std::string read_string_pattern(const JsonObject& object, const char* item);

// `"<name>"`, escaped: how a message shows a value from outside.
std::string quote_name(std::string_view name);

// Throws UnsupportedError "<file>: <item>: <field>: got <got>, want <want>".
[[noreturn]] void fail_unsupported(const std::string& path, const char* item, const char* field,
                                   const std::string& got, const std::string& want);
// The same for a "type" that this build does not have.
[[noreturn]] void fail_unsupported_type(const std::string& path, const char* item,
                                        const std::string& type);

}  // namespace moa_rt
