// The component "post_processor" of tokenizer.json: the ids put around a text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/vocabulary.h"

namespace moa_rt {

struct PostProcessor {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> after;

  // TemplateProcessing (its form for one text) and ByteLevel (which moves no ids), alone or in a
  // Sequence; `component` may be null. Throws UnsupportedError naming any other type, FormatError
  // for a template that names unknown ids.
  static PostProcessor parse(const Json& component, const Vocabulary& vocabulary,
                             const std::string& path);
};

}  // namespace moa_rt
