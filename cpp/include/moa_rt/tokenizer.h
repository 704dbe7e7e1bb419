// Text to token ids and back, from a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moa_rt {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// Immutable and safe to share between threads.
class Tokenizer {
 public:
  // Reads `<model_dir>/tokenizer.json` (required) and `tokenizer_config.json` (optional). Throws
  // IoError, FormatError, or UnsupportedError naming a component this build does not have.
  static Tokenizer load(const std::string& model_dir);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // UTF-8 text to ids. With `add_special` the tokenizer's own template adds BOS or EOS. The
  // spelling of a special token inside `text` is plain text unless `allow_special` (D8). Throws
  // ArgumentError with the byte offset for invalid UTF-8. Linear in the length of the text.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special = true,
                                   bool allow_special = false) const;

  // Ids to UTF-8. Bytes that do not form a character become U+FFFD. Throws ArgumentError for an id
  // outside the vocabulary.
  std::string decode(const std::vector<std::int32_t>& ids, bool skip_special = true) const;

  // One turn of conversation as the model was trained to read it. The family's template is built
  // in; throws UnsupportedError if the model has none and ArgumentError for an unknown role.
  std::string apply_chat_template(const std::vector<ChatMessage>& messages,
                                  bool add_generation_prompt = true) const;
  // The same as ids: markers become special tokens, contents never do (D8).
  std::vector<std::int32_t> encode_chat(const std::vector<ChatMessage>& messages,
                                        bool add_generation_prompt = true) const;
  bool has_chat_template() const;

  std::int64_t vocab_size() const;  // highest id + 1, added tokens included
  std::optional<std::int32_t> token_to_id(std::string_view token) const;
  std::string id_to_token(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  // Resident bytes of the tables, for the memory prediction.
  std::int64_t memory_bytes() const;

  class Impl;

 private:
  friend class IncrementalDetokenizer;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

// Turns a stream of ids into text; never emits part of a character. The pieces joined equal
// Tokenizer::decode of all ids.
class IncrementalDetokenizer {
 public:
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special = true);
  ~IncrementalDetokenizer();
  IncrementalDetokenizer(IncrementalDetokenizer&&) noexcept;
  IncrementalDetokenizer& operator=(IncrementalDetokenizer&&) noexcept;

  // Text that became certain with this id; may be empty.
  std::string push(std::int32_t id);
  // What was held back; an unfinished character becomes U+FFFD.
  std::string finish();

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace moa_rt
