#include "text/tokenizer_json.h"

#include <unordered_set>

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/component.h"

namespace moa_rt {
namespace {

constexpr std::size_t kMaxDepth = 16;

class TokenizerSax : public nlohmann::json_sax<Json> {
 public:
  TokenizerSax(TokenizerJson& result, const std::string& path) : result_(result), path_(path) {}

  bool null() override { return value(Json(nullptr)); }
  bool boolean(bool v) override { return value(Json(v)); }
  bool number_float(number_float_t v, const string_t&) override { return value(Json(v)); }
  bool binary(binary_t&) override { return false; }
  bool number_integer(number_integer_t v) override {
    return state_ == State::kVocabulary ? add_id(v) : value(Json(v));
  }
  bool number_unsigned(number_unsigned_t v) override {
    if (state_ != State::kVocabulary) return value(Json(v));
    return add_id(v > INT32_MAX ? std::int64_t{INT32_MAX} + 1 : static_cast<std::int64_t>(v));
  }
  bool string(string_t& v) override {
    if (state_ == State::kMerges) return add_merge(v);
    if (state_ != State::kMergePair) return value(Json(std::move(v)));
    result_.merges.add(v);
    ++pair_size_;
    return true;
  }

  bool start_object(std::size_t) override {
    if (state_ == State::kRest && key_ == "vocab" && in_model()) {
      result_.has_vocabulary = true;
      return enter(State::kVocabulary);
    }
    return open(Json::object());
  }
  bool start_array(std::size_t) override {
    if (state_ == State::kRest && key_ == "merges" && in_model()) {
      result_.has_merges = true;
      return enter(State::kMerges);
    }
    if (state_ != State::kMerges) return open(Json::array());
    pair_size_ = 0;
    return enter(State::kMergePair);
  }
  bool end_object() override { return close(); }
  bool end_array() override {
    if (state_ != State::kMergePair) return close();
    if (pair_size_ != 2) fail_merge(std::to_string(pair_size_) + " strings");
    ++merge_index_;
    return enter(State::kMerges);
  }

  bool key(string_t& name) override {
    if (state_ == State::kVocabulary) {
      result_.tokens.add(name);
      return true;
    }
    if (!keys_.back().insert(name).second) {
      throw FormatError(
          describe({.file = path_, .item = quoted_item("key", name), .note = "duplicate key"}));
    }
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw FormatError(describe({.file = path_,
                                .item = "invalid JSON at byte " + std::to_string(position),
                                .note = error.what()}));
  }

 private:
  enum class State { kRest, kVocabulary, kMerges, kMergePair };

  [[noreturn]] void fail_merge(const std::string& got) const {
    throw FormatError(describe({.file = path_,
                                .item = "merge " + std::to_string(merge_index_),
                                .got = got,
                                .want = "two tokens, as \"a b\" or [\"a\", \"b\"]"}));
  }
  [[noreturn]] void fail_id(const std::string& got) const {
    throw FormatError(describe({.file = path_,
                                .item = quoted_item("token", result_.tokens[result_.ids.size()]),
                                .field = "id",
                                .got = got,
                                .want = "an integer in 0..2147483647"}));
  }

  bool enter(State state) {
    state_ = state;
    return true;
  }
  bool in_model() const { return stack_.size() == 2 && section_ == "model"; }

  bool add_id(std::int64_t id) {
    if (id < 0 || id > INT32_MAX) fail_id(id < 0 ? std::to_string(id) : "a larger one");
    result_.ids.push_back(static_cast<std::int32_t>(id));
    return true;
  }
  bool add_merge(std::string_view text) {
    const std::size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      fail_merge(quote_name(text));
    }
    result_.merges.add(text.substr(0, space));
    result_.merges.add(text.substr(space + 1));
    ++merge_index_;
    return true;
  }

  bool value(Json v) {
    if (state_ == State::kVocabulary) fail_id(v.type_name());
    if (state_ != State::kRest) fail_merge(v.type_name());
    place(std::move(v));
    return true;
  }
  bool open(Json container) {
    if (state_ != State::kRest) return value(std::move(container));
    if (stack_.size() >= kMaxDepth) {
      throw FormatError(describe({.file = path_, .note = "depth > " + std::to_string(kMaxDepth)}));
    }
    if (stack_.size() == 1) section_ = key_;
    stack_.push_back(place(std::move(container)));
    keys_.emplace_back();
    key_.clear();
    return true;
  }
  bool close() {
    if (state_ != State::kRest) return enter(State::kRest);
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }
  // A parent does not grow while a child is open, so pointers into it stay good.
  Json* place(Json v) {
    if (stack_.empty()) return &(result_.document = std::move(v));
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    // Keys are known to be unique; emplace_back of the base skips ordered_map's linear search.
    auto& object = parent.get_ref<Json::object_t&>();
    object.Container::emplace_back(std::move(key_), std::move(v));
    return &object.Container::back().second;
  }

  TokenizerJson& result_;
  const std::string& path_;
  State state_ = State::kRest;
  std::vector<Json*> stack_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_;
  std::string section_;  // key of the root's open child
  std::size_t merge_index_ = 0;
  int pair_size_ = 0;
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, const std::string& path) {
  if (text.starts_with("\xEF\xBB\xBF")) {
    throw FormatError(describe({.file = path, .note = "byte order mark at byte 0"}));
  }
  TokenizerJson result;
  TokenizerSax handler(result, path);
  Json::sax_parse(text.data(), text.data() + text.size(), &handler);
  return result;
}

}  // namespace moa_rt
