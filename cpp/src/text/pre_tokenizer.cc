#include "text/pre_tokenizer.h"

#include "core/message.h"
#include "text/component.h"
#include "text/normalizer.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

constexpr const char* kItem = "pre_tokenizer";

void scan_pieces(std::string_view text, Scanner scanner, std::vector<std::string_view>& pieces) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = scanner(text, begin);
    pieces.push_back(text.substr(begin, end - begin));
    begin = end;
  }
}

void split_before(std::string_view text, std::string_view mark,
                  std::vector<std::string_view>& pieces) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(mark, begin + 1), text.size());
    pieces.push_back(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace

void PreTokenizer::add_split(const JsonObject& object) {
  const std::string& path = object.path();
  const JsonObject pattern(object.object("pattern"), path, kItem);
  const std::string text =
      pattern.has("Regex") ? pattern.string("Regex") : pattern.string("String");
  const Scanner scanner = pattern.has("Regex") ? find_scanner(text) : nullptr;
  if (scanner == nullptr) {
    fail_unsupported(path, kItem, "pattern", quote_name(text),
                     "a pattern this build has a scanner for");
  }
  const std::string behavior = object.string("behavior");
  if (behavior != "Isolated") {
    fail_unsupported(path, kItem, "behavior", quote_name(behavior), "\"Isolated\"");
  }
  if (object.has("invert") && object.boolean("invert")) {
    fail_unsupported(path, kItem, "invert", "true", "false");
  }
  scanners_.push_back(scanner);
}

void PreTokenizer::add_byte_level(const JsonObject& object) {
  last_ = true;
  unit_ = BpeUnit::kByte;
  if (object.boolean("add_prefix_space")) {
    if (!scanners_.empty()) {
      fail_unsupported(object.path(), kItem, "add_prefix_space", "true after another pre-tokenizer",
                       "false");
    }
    prefix_.assign(1, ' ');
    prefix_scheme_ = PrefixScheme::kAlways;
  }
  if (!object.has("use_regex") || object.boolean("use_regex")) scanners_.push_back(scan_gpt2);
}

void PreTokenizer::add_metaspace(const JsonObject& object) {
  last_ = true;
  const std::string& path = object.path();
  if (!scanners_.empty()) {
    fail_unsupported(path, kItem, "type", "Metaspace after another pre-tokenizer", "it alone");
  }
  prefix_ = space_replacement_ = object.string("replacement");
  if (prefix_.empty() || utf8_at(prefix_, 0).length != prefix_.size()) {
    fail_unsupported(path, kItem, "replacement", quote_name(prefix_), "one character");
  }
  split_before_replacement_ = !object.has("split") || object.boolean("split");
  prefix_scheme_ = PrefixScheme::kAlways;
  if (object.has("prepend_scheme")) {
    const std::string scheme = object.string("prepend_scheme");
    if (scheme == "never") {
      prefix_scheme_ = PrefixScheme::kNever;
    } else if (scheme == "first") {
      prefix_scheme_ = PrefixScheme::kFirst;
    } else if (scheme != "always") {
      fail_unsupported(path, kItem, "prepend_scheme", quote_name(scheme), "always, first or never");
    }
  } else if (object.has("add_prefix_space") && !object.boolean("add_prefix_space")) {
    prefix_scheme_ = PrefixScheme::kNever;
  }
}

void PreTokenizer::add_part(const Json& component, const std::string& path) {
  const JsonObject object(component, path, kItem);
  const std::string type = object.string("type");
  if (last_) {
    fail_unsupported(path, kItem, "type",
                     "\"" + escape_name(type) + "\" after ByteLevel or Metaspace", "these last");
  }
  if (type == "Digits") {
    const bool single = object.has("individual_digits") && object.boolean("individual_digits");
    scanners_.push_back(single ? scan_single_digits : scan_digit_runs);
  } else if (type == "Split") {
    add_split(object);
  } else if (type == "ByteLevel") {
    add_byte_level(object);
  } else if (type == "Metaspace") {
    add_metaspace(object);
  } else {
    fail_unsupported_type(path, kItem, type);
  }
}

PreTokenizer PreTokenizer::parse(const Json& component, const std::string& path) {
  PreTokenizer result;
  for (const Json* part : flatten_sequence(component, "pretokenizers", kItem, path)) {
    result.add_part(*part, path);
  }
  return result;
}

void PreTokenizer::split(std::string_view text, bool at_start, Scratch& scratch) const {
  scratch.pieces.clear();
  if (text.empty()) return;
  const bool add_prefix = prefix_scheme_ == PrefixScheme::kAlways ||
                          (prefix_scheme_ == PrefixScheme::kFirst && at_start);
  if (!space_replacement_.empty()) {
    scratch.buffer = replace_all(text, " ", space_replacement_);
    text = scratch.buffer;
  }
  if (add_prefix && !text.starts_with(prefix_)) {
    std::string prefixed = prefix_;
    prefixed += text;  // which may lie in the buffer
    scratch.buffer.swap(prefixed);
    text = scratch.buffer;
  }
  if (split_before_replacement_) {
    split_before(text, space_replacement_, scratch.pieces);
    return;
  }
  scratch.pieces.push_back(text);
  for (const Scanner scanner : scanners_) {
    scratch.parts.clear();
    for (const std::string_view piece : scratch.pieces) scan_pieces(piece, scanner, scratch.parts);
    scratch.pieces.swap(scratch.parts);
  }
}

}  // namespace moa_rt
