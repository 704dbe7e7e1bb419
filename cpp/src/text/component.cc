#include "text/component.h"

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {

std::vector<const Json*> flatten_sequence(const Json& component, const char* list_field,
                                          const char* item, const std::string& path) {
  if (component.is_null()) return {};
  const JsonObject object(component, path, item);
  if (object.string("type") != "Sequence") return {&component};
  std::vector<const Json*> parts;
  for (const Json& part : object.array(list_field)) {
    const JsonObject inner(part, path, item);
    if (inner.string("type") == "Sequence") {
      fail_unsupported(path, item, "type", "a Sequence inside a Sequence", "one level");
    }
    parts.push_back(&part);
  }
  return parts;
}

std::string read_string_pattern(const JsonObject& object, const char* item) {
  const JsonObject pattern(object.object("pattern"), object.path(), item);
  if (!pattern.has("String")) {
    fail_unsupported(object.path(), item, "pattern",
                     escape_name(pattern.value().dump().substr(0, 120)), "a fixed String");
  }
  std::string text = pattern.string("String");
  if (text.empty()) {
    throw FormatError(describe({.file = object.path(),
                                .item = item,
                                .field = "pattern",
                                .got = "an empty string",
                                .want = "at least one character"}));
  }
  return text;
}

std::string quote_name(std::string_view name) {
  std::string out = "\"";
  return out.append(escape_name(name)).append("\"");
}

void fail_unsupported(const std::string& path, const char* item, const char* field,
                      const std::string& got, const std::string& want) {
  throw UnsupportedError(
      describe({.file = path, .item = item, .field = field, .got = got, .want = want}));
}

void fail_unsupported_type(const std::string& path, const char* item, const std::string& type) {
  fail_unsupported(path, item, "type", quote_name(type), "a type this build has");
}

}  // namespace moa_rt
