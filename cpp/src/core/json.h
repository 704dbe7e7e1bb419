// Strict JSON for files from outside: duplicate keys, depth, size and exact integers are checked
// while parsing, which a map-building parser cannot do afterwards.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace moa_rt {

using Json = nlohmann::ordered_json;  // keeps the order of keys as written

struct JsonLimits {
  std::size_t max_bytes = std::size_t{16} << 20;
  int max_depth = 16;
};

// Parses a whole document. Throws FormatError with `path` and the byte offset for anything that is
// not exactly one JSON value in UTF-8: a byte order mark, trailing text, NaN, duplicate keys, too
// deep, too large. Integers are kept as int64 or uint64; an integer that fits neither stays a
// float.
Json parse_json(std::string_view text, const std::string& path, const JsonLimits& limits = {});

// Typed reading of one object with errors that name file, item and field. 32.0 is not an integer,
// "32" is not a number, true is not 1.
class JsonObject {
 public:
  // Throws FormatError if `value` is not an object. Both must outlive this.
  JsonObject(const Json& value, const std::string& path, std::string item = "");

  bool has(const char* field) const;       // present and not null
  bool contains(const char* field) const;  // present, null included
  std::int64_t integer(const char* field, std::int64_t min, std::int64_t max) const;
  double number(const char* field, double min, double max) const;  // finite; integers accepted
  bool boolean(const char* field) const;
  std::string string(const char* field) const;
  const Json& array(const char* field) const;
  const Json& object(const char* field) const;
  const Json& at(const char* field) const;  // FormatError if absent or null
  // FormatError naming the first key that is in none of `known` and does not start with "x_".
  void check_keys(std::initializer_list<std::string_view> known) const;

  const std::string& path() const { return path_; }
  const Json& value() const { return value_; }

 private:
  [[noreturn]] void fail(const char* field, const Json* got, const std::string& want) const;

  const Json& value_;
  const std::string& path_;
  std::string item_;
};

}  // namespace moa_rt
