#include "text/post_processor.h"

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/component.h"

namespace moa_rt {
namespace {

constexpr const char* kItem = "post_processor";

[[noreturn]] void fail(const std::string& path, const char* field, const std::string& got,
                       const std::string& want) {
  throw FormatError(
      describe({.file = path, .item = kItem, .field = field, .got = got, .want = want}));
}

void append_special(const JsonObject& processor, const JsonObject& piece,
                    const Vocabulary& vocabulary, std::vector<std::int32_t>& ids) {
  const std::string& path = processor.path();
  const JsonObject table(processor.object("special_tokens"), path, kItem);
  const std::string name = piece.string("id");
  if (!table.has(name.c_str())) {
    fail(path, "special_tokens", "nothing", quoted_item("an entry for", name));
  }
  const JsonObject entry(table.object(name.c_str()), path, kItem);
  for (const Json& id : entry.array("ids")) {
    if (!id.is_number_integer() || !vocabulary.contains(id.get<std::int64_t>())) {
      fail(path, "ids", escape_name(id.dump().substr(0, 40)), "an id of the vocabulary");
    }
    ids.push_back(id.get<std::int32_t>());
  }
}

// One template puts `before` and `after` around what earlier ones made.
void apply_template(const JsonObject& processor, const Vocabulary& vocabulary,
                    PostProcessor& result) {
  std::vector<std::int32_t> before;
  std::vector<std::int32_t> after;
  int sequences = 0;
  for (const Json& part : processor.array("single")) {
    const JsonObject object(part, processor.path(), kItem);
    if (object.has("Sequence")) {
      ++sequences;
      continue;
    }
    const JsonObject piece(object.object("SpecialToken"), processor.path(), kItem);
    append_special(processor, piece, vocabulary, sequences == 0 ? before : after);
  }
  if (sequences != 1) {
    fail(processor.path(), "single", std::to_string(sequences) + " sequences", "1");
  }
  result.before.insert(result.before.begin(), before.begin(), before.end());
  result.after.insert(result.after.end(), after.begin(), after.end());
}

}  // namespace

PostProcessor PostProcessor::parse(const Json& component, const Vocabulary& vocabulary,
                                   const std::string& path) {
  PostProcessor result;
  for (const Json* part : flatten_sequence(component, "processors", kItem, path)) {
    const JsonObject object(*part, path, kItem);
    const std::string type = object.string("type");
    if (type == "TemplateProcessing") {
      apply_template(object, vocabulary, result);
    } else if (type != "ByteLevel") {
      fail_unsupported_type(path, kItem, type);
    }
  }
  return result;
}

}  // namespace moa_rt
