// The component "decoder" of tokenizer.json: token strings back into text, one token at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/utf8.h"

namespace moa_rt {

// What the decoder does to tokens. Known forms: null (tokens joined by a space), ByteLevel,
// Metaspace, and a Sequence of Replace..., ByteFallback, Fuse, Strip in this order, each optional.
struct TokenDecoder {
  enum class Kind { kJoinBySpace, kByteLevel, kMetaspace, kPieces };

  Kind kind = Kind::kJoinBySpace;
  std::vector<std::pair<std::string, std::string>> replacements;  // kPieces
  bool byte_fallback = false;                                     // kPieces: `<0xNN>` is a byte
  std::string strip_content;      // kPieces: a character removed from the beginning of the text ...
  std::size_t strip_count = 0;    // ... at most so many times
  std::string space_replacement;  // kMetaspace
  bool drop_first_spaces = false;  // kMetaspace: replaced spaces of the first token vanish

  // `component` may be null. Throws UnsupportedError naming any other form (D1).
  static TokenDecoder parse(const Json& component, const std::string& path);
};

// The byte of a token spelled `<0xNN>`, or -1.
int byte_of_token(std::string_view token);

// Decodes a sequence of tokens. What has been put out is final and well-formed UTF-8: bytes that
// may still turn out otherwise are held back until `finish`.
class DecodeStream {
 public:
  // The decoder must outlive this.
  explicit DecodeStream(const TokenDecoder& decoder) : decoder_(&decoder) {}

  void push(std::string_view token, std::string& out);
  void finish(std::string& out);

 private:
  void push_byte_level(std::string_view token, std::string& out);
  void push_metaspace(std::string_view token, std::string& out);
  void push_piece(std::string_view token, std::string& out);
  void flush_bytes(std::string& out);
  void emit(std::string_view text, std::string& out);

  const TokenDecoder* decoder_;
  bool first_ = true;
  Utf8Repair repair_;
  std::string bytes_;         // the run of byte tokens so far
  std::size_t stripped_ = 0;  // characters removed from the beginning
  bool strip_done_ = false;
};

}  // namespace moa_rt
