#include "text/normalizer.h"

#include "text/component.h"
#include "text/unicode.h"

namespace moa_rt {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  std::size_t position = 0;
  for (;;) {
    const std::size_t found = text.find(from, position);
    out += text.substr(position, found - position);
    if (found == std::string_view::npos) return out;
    out += to;
    position = found + from.size();
  }
}

void Normalizer::add_step(const Json& component, const std::string& path) {
  const JsonObject object(component, path, "normalizer");
  const std::string type = object.string("type");
  if (type == "NFC") {
    steps_.push_back({Kind::kNfc, "", ""});
  } else if (type == "Prepend") {
    steps_.push_back({Kind::kPrepend, "", object.string("prepend")});
  } else if (type == "Replace") {
    steps_.push_back(
        {Kind::kReplace, read_string_pattern(object, "normalizer"), object.string("content")});
  } else {
    fail_unsupported_type(path, "normalizer", type);
  }
}

Normalizer Normalizer::parse(const Json& component, const std::string& path) {
  Normalizer normalizer;
  for (const Json* part : flatten_sequence(component, "normalizers", "normalizer", path)) {
    normalizer.add_step(*part, path);
  }
  return normalizer;
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kNfc:
        out = normalize_nfc(out);
        break;
      case Kind::kPrepend:
        if (!out.empty()) out.insert(0, step.to);
        break;
      case Kind::kReplace:
        out = replace_all(out, step.from, step.to);
        break;
    }
  }
  return out;
}

}  // namespace moa_rt
