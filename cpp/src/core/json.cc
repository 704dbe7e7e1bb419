#include "core/json.h"

#include <cmath>
#include <limits>
#include <unordered_set>
#include <vector>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

// Builds the document while it is parsed, so that duplicate keys and depth are seen at once.
class StrictBuilder : public nlohmann::json_sax<Json> {
 public:
  StrictBuilder(const std::string& path, int max_depth) : path_(path), max_depth_(max_depth) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(Json(nullptr)); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) {
      throw FormatError(
          describe({.file = path_, .item = quoted_item("key", name), .note = "duplicate key"}));
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string offset = "invalid JSON at byte " + std::to_string(position);
    throw FormatError(describe({.file = path_, .item = offset, .note = escape_name(error.what())}));
  }

 private:
  // Parents outlive their children on the stack; an ordered object's element moves only while its
  // own parent grows, which cannot happen before the child is closed.
  bool open(Json container) {
    if (static_cast<int>(stack_.size()) >= max_depth_) {
      throw FormatError(describe({.file = path_, .note = "depth > " + std::to_string(max_depth_)}));
    }
    stack_.push_back(place(std::move(container)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  Json* place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // The base container's emplace_back skips the linear search of ordered_map: keys are known
    // unique.
    auto& object = parent.get_ref<Json::object_t&>();
    object.Container::emplace_back(std::move(key_), std::move(value));
    return &object.Container::back().second;
  }

  const std::string& path_;
  int max_depth_;
  Json root_;
  std::vector<Json*> stack_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_;
};

std::string type_text(const Json& value) {
  const std::string text = value.is_string()
                               ? "\"" + escape_name(value.get_ref<const std::string&>()) + "\""
                               : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return std::string(value.type_name()) + " " + escape_name(text.substr(0, 80));
}

}  // namespace

Json parse_json(std::string_view text, const std::string& path, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    throw FormatError(describe({.file = path,
                                .got = std::to_string(text.size()) + " bytes",
                                .want = "at most " + std::to_string(limits.max_bytes)}));
  }
  if (text.starts_with("\xef\xbb\xbf")) {
    throw FormatError(describe({.file = path, .note = "byte order mark at byte 0"}));
  }
  // The parser would take it for the end of the text.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw FormatError(describe({.file = path, .note = "NUL byte at byte " + std::to_string(nul)}));
  }
  StrictBuilder builder(path, limits.max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

JsonObject::JsonObject(const Json& value, const std::string& path, std::string item)
    : value_(value), path_(path), item_(std::move(item)) {
  if (!value.is_object()) {
    throw FormatError(
        describe({.file = path_, .item = item_, .got = type_text(value), .want = "an object"}));
  }
}

bool JsonObject::contains(const char* field) const { return value_.contains(field); }

bool JsonObject::has(const char* field) const {
  const auto found = value_.find(field);
  return found != value_.end() && !found->is_null();
}

void JsonObject::fail(const char* field, const Json* got, const std::string& want) const {
  throw FormatError(describe({.file = path_,
                              .item = item_,
                              .field = field,
                              .got = got == nullptr ? std::string("nothing") : type_text(*got),
                              .want = want}));
}

const Json& JsonObject::at(const char* field) const {
  const auto found = value_.find(field);
  if (found == value_.end()) fail(field, nullptr, "a value");
  if (found->is_null()) fail(field, &*found, "a value");
  return *found;
}

std::int64_t JsonObject::integer(const char* field, std::int64_t min, std::int64_t max) const {
  const std::string want = "an integer in " + std::to_string(min) + ".." + std::to_string(max);
  const auto found = value_.find(field);
  if (found == value_.end()) fail(field, nullptr, want);
  if (!found->is_number_integer()) fail(field, &*found, want);
  if (found->is_number_unsigned() &&
      found->get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail(field, &*found, want);
  }
  const auto number = found->get<std::int64_t>();
  if (number < min || number > max) fail(field, &*found, want);
  return number;
}

double JsonObject::number(const char* field, double min, double max) const {
  const std::string want = "a number in " + Json(min).dump() + ".." + Json(max).dump();
  const auto found = value_.find(field);
  if (found == value_.end()) fail(field, nullptr, want);
  if (!found->is_number()) fail(field, &*found, want);
  const auto number = found->get<double>();
  if (!(number >= min && number <= max)) fail(field, &*found, want);
  return number;
}

bool JsonObject::boolean(const char* field) const {
  const auto found = value_.find(field);
  if (found == value_.end()) fail(field, nullptr, "true or false");
  if (!found->is_boolean()) fail(field, &*found, "true or false");
  return found->get<bool>();
}

std::string JsonObject::string(const char* field) const {
  const auto found = value_.find(field);
  if (found == value_.end()) fail(field, nullptr, "a string");
  if (!found->is_string()) fail(field, &*found, "a string");
  return found->get<std::string>();
}

const Json& JsonObject::array(const char* field) const {
  const Json& value = at(field);
  if (!value.is_array()) fail(field, &value, "an array");
  return value;
}

const Json& JsonObject::object(const char* field) const {
  const Json& value = at(field);
  if (!value.is_object()) fail(field, &value, "an object");
  return value;
}

void JsonObject::check_keys(std::initializer_list<std::string_view> known) const {
  for (const auto& [key, unused] : value_.items()) {
    if (key.starts_with("x_")) continue;
    bool found = false;
    for (const std::string_view name : known) found = found || key == name;
    if (!found) {
      throw FormatError(describe(
          {.file = path_, .item = item_, .field = quoted_item("key", key), .note = "unknown key"}));
    }
  }
}

}  // namespace moa_rt
