#include "io/safetensors_header.h"

#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

using SaxBase = nlohmann::json_sax<nlohmann::json>;

// A state machine over the only form a header has:
//   {"__metadata__": {string: string}, name: {"dtype": string, "shape": [u64], "data_offsets":
//   [u64, u64]}}
// Anything else is refused where it appears.
class HeaderHandler : public SaxBase {
 public:
  HeaderHandler(const std::string& path, std::size_t file_offset)
      : path_(path), file_offset_(file_offset) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
  bool binary(binary_t&) override { return unexpected("binary"); }
  bool number_integer(number_integer_t value) override { return unexpected(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return unexpected(text); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::kShape) {
      if (entry_.shape.size() >= kMaxSafetensorsRank) {
        fail("rank > " + std::to_string(kMaxSafetensorsRank));
      }
      entry_.shape.push_back(value);
      return true;
    }
    if (state_ == State::kOffsets) {
      if (offsets_ == 0) entry_.begin = value;
      if (offsets_ == 1) entry_.end = value;
      if (++offsets_ > 2) fail("got more than 2 numbers, want [begin, end]");
      return true;
    }
    return unexpected(std::to_string(value));
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadata) {
      header_.metadata[key_] = std::move(value);
      return true;
    }
    if (state_ == State::kTensor && key_ == "dtype") {
      entry_.dtype = std::move(value);
      return true;
    }
    return unexpected("\"" + escape_name(value) + "\"");
  }

  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
    } else if (state_ == State::kTop && key_ == kMetadataKey) {
      state_ = State::kMetadata;
    } else if (state_ == State::kTop) {
      state_ = State::kTensor;
      entry_ = {};
      entry_.name = key_;
      has_dtype_ = has_shape_ = has_offsets_ = false;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor) {
      require(has_dtype_, "dtype");
      require(has_shape_, "shape");
      require(has_offsets_, "data_offsets");
      header_.entries.push_back(std::move(entry_));
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kTensor && key_ == "shape") {
      state_ = State::kShape;
    } else if (state_ == State::kTensor && key_ == "data_offsets") {
      state_ = State::kOffsets;
      offsets_ = 0;
    } else {
      return unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (state_ == State::kOffsets && offsets_ != 2) {
      fail("got " + std::to_string(offsets_) + " numbers, want [begin, end]");
    }
    state_ = State::kTensor;
    return true;
  }

  bool key(string_t& name) override {
    if (name.size() > kMaxSafetensorsName) {
      throw FormatError(describe({.file = path_,
                                  .item = quoted_item("name", name),
                                  .got = std::to_string(name.size()) + " bytes",
                                  .want = "at most " + std::to_string(kMaxSafetensorsName)}));
    }
    key_ = std::move(name);
    if (state_ == State::kTop) return top_key();
    if (state_ == State::kMetadata) {
      if (header_.metadata.size() >= kMaxSafetensorsTensors) fail("too many entries");
      if (!header_.metadata.try_emplace(key_).second) fail("duplicate key");
      return true;
    }
    return tensor_key();
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string item =
        "invalid JSON in the header at byte " + std::to_string(file_offset_ + position);
    throw FormatError(describe({.file = path_, .item = item, .note = escape_name(error.what())}));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };
  static constexpr const char* kMetadataKey = "__metadata__";

  bool top_key() {
    if (names_.size() >= kMaxSafetensorsTensors) {
      throw FormatError(
          describe({.file = path_,
                    .note = "more than " + std::to_string(kMaxSafetensorsTensors) + " tensors"}));
    }
    if (!names_.insert(key_).second) {
      throw FormatError(
          describe({.file = path_, .item = quoted_item("tensor", key_), .note = "duplicate key"}));
    }
    return true;
  }

  bool tensor_key() {
    bool* seen = nullptr;
    if (key_ == "dtype") seen = &has_dtype_;
    if (key_ == "shape") seen = &has_shape_;
    if (key_ == "data_offsets") seen = &has_offsets_;
    if (seen == nullptr) fail("unknown key");
    if (std::exchange(*seen, true)) fail("duplicate key");
    return true;
  }

  void require(bool present, const char* field) {
    if (present) return;
    key_ = field;
    fail("is missing");
  }

  // What the place being parsed is called, and what belongs there.
  std::string item() const {
    switch (state_) {
      case State::kStart:
      case State::kEnd:
        return "header";
      case State::kTop:
        return key_ == kMetadataKey ? key_ : quoted_item("tensor", key_);
      case State::kMetadata:
        return kMetadataKey;
      default:
        return quoted_item("tensor", entry_.name);
    }
  }
  std::string field() const {
    const bool has_field = state_ != State::kStart && state_ != State::kTop;
    return has_field ? escape_name(key_) : std::string();
  }
  const char* want() const {
    switch (state_) {
      case State::kMetadata:
        return "a string: metadata must be string to string";
      case State::kTensor:
        return key_ == "dtype" ? "a string" : "an array of whole numbers";
      case State::kShape:
      case State::kOffsets:
        return "a whole number from 0 to 2^64 - 1";
      default:
        return "an object";
    }
  }

  bool unexpected(const std::string& got) {
    throw FormatError(describe({.file = path_,
                                .item = item(),
                                .field = field(),
                                .got = escape_name(got),
                                .want = want()}));
  }
  [[noreturn]] void fail(const std::string& note) {
    throw FormatError(describe({.file = path_, .item = item(), .field = field(), .note = note}));
  }

  const std::string& path_;
  std::size_t file_offset_;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  State state_ = State::kStart;
  std::string key_;
  SafetensorsEntry entry_;
  std::size_t offsets_ = 0;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
};

// Brackets outside strings, counted before anything is parsed.
void check_depth(std::string_view text, const std::string& path) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxSafetensorsDepth) {
        throw FormatError(describe({.file = path,
                                    .item = "header",
                                    .note = "depth > " + std::to_string(kMaxSafetensorsDepth)}));
      }
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& path,
                                           std::size_t file_offset) {
  // The parser would skip it.
  if (text.starts_with("\xef\xbb\xbf")) {
    throw FormatError(describe({.file = path,
                                .item = "header",
                                .note = "byte order mark at byte " + std::to_string(file_offset)}));
  }
  // The parser would take it for the end of the text.
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw FormatError(describe({.file = path,
                                .item = "header",
                                .note = "NUL byte at byte " + std::to_string(file_offset + nul)}));
  }
  check_depth(text, path);
  HeaderHandler handler(path, file_offset);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  return handler.take();
}

}  // namespace moa_rt
