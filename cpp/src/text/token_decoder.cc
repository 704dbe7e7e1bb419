#include "text/token_decoder.h"

#include "text/byte_alphabet.h"
#include "text/component.h"
#include "text/normalizer.h"

namespace moa_rt {
namespace {

constexpr const char* kItem = "decoder";

// Reads the parts of a Sequence; each may only come after those of a lower stage.
class PiecesReader {
 public:
  PiecesReader(TokenDecoder& decoder, const std::string& path) : decoder_(decoder), path_(path) {}

  void read(const Json& part) {
    const JsonObject object(part, path_, kItem);
    const std::string type = object.string("type");
    if (type == "Replace") {
      enter(1, type);
      decoder_.replacements.emplace_back(read_string_pattern(object, kItem),
                                         object.string("content"));
    } else if (type == "ByteFallback") {
      enter(2, type);
      decoder_.byte_fallback = true;
    } else if (type == "Fuse") {
      enter(3, type);
    } else if (type == "Strip") {
      if (stage_ != 3) fail_unsupported(path_, kItem, "type", "Strip not after Fuse", "it after");
      enter(4, type);
      read_strip(object);
    } else {
      fail_unsupported_type(path_, kItem, type);
    }
  }

 private:
  void enter(int stage, const std::string& type) {
    if (stage < stage_ || (stage == stage_ && stage != 1)) {
      fail_unsupported(path_, kItem, "type", type + " out of order",
                       "Replace, ByteFallback, Fuse, Strip");
    }
    stage_ = stage;
  }
  void read_strip(const JsonObject& object) {
    if (object.integer("stop", 0, 1 << 20) != 0) {
      fail_unsupported(path_, kItem, "stop", "a strip at the end", "0");
    }
    decoder_.strip_content = object.string("content");
    decoder_.strip_count = static_cast<std::size_t>(object.integer("start", 0, 1 << 20));
    if (decoder_.strip_content.empty()) {
      fail_unsupported(path_, kItem, "content", "an empty string", "one character");
    }
  }

  TokenDecoder& decoder_;
  const std::string& path_;
  int stage_ = 0;
};

void read_metaspace(const JsonObject& object, TokenDecoder& decoder) {
  decoder.kind = TokenDecoder::Kind::kMetaspace;
  decoder.space_replacement = object.string("replacement");
  if (decoder.space_replacement.empty()) {
    fail_unsupported(object.path(), kItem, "replacement", "an empty string", "one character");
  }
  decoder.drop_first_spaces = true;
  if (object.has("prepend_scheme")) {
    decoder.drop_first_spaces = object.string("prepend_scheme") != "never";
  } else if (object.has("add_prefix_space")) {
    decoder.drop_first_spaces = object.boolean("add_prefix_space");
  }
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

int byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const int high = hex_digit(token[3]);
  const int low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

TokenDecoder TokenDecoder::parse(const Json& component, const std::string& path) {
  TokenDecoder decoder;
  const auto parts = flatten_sequence(component, "decoders", kItem, path);
  if (component.is_null()) return decoder;
  if (parts.size() == 1) {
    const JsonObject object(*parts[0], path, kItem);
    const std::string type = object.string("type");
    if (type == "ByteLevel") {
      decoder.kind = Kind::kByteLevel;
      return decoder;
    }
    if (type == "Metaspace") {
      read_metaspace(object, decoder);
      return decoder;
    }
  }
  decoder.kind = Kind::kPieces;
  PiecesReader reader(decoder, path);
  for (const Json* part : parts) reader.read(*part);
  return decoder;
}

void DecodeStream::push(std::string_view token, std::string& out) {
  switch (decoder_->kind) {
    case TokenDecoder::Kind::kJoinBySpace:
      if (!first_) out += ' ';
      out += token;
      break;
    case TokenDecoder::Kind::kByteLevel:
      push_byte_level(token, out);
      break;
    case TokenDecoder::Kind::kMetaspace:
      push_metaspace(token, out);
      break;
    case TokenDecoder::Kind::kPieces:
      push_piece(token, out);
      break;
  }
  first_ = false;
}

void DecodeStream::finish(std::string& out) {
  repair_.finish(out);
  flush_bytes(out);
}

// A token with any character outside the alphabet (an added token) stands for its own spelling.
void DecodeStream::push_byte_level(std::string_view token, std::string& out) {
  std::string bytes;
  for (std::size_t position = 0; position < token.size();) {
    const Utf8Char c = utf8_at(token, position);
    position += c.length;
    const int byte = byte_of_character(c.value);
    if (byte < 0) {
      repair_.push(token, out);
      return;
    }
    bytes.push_back(static_cast<char>(byte));
  }
  repair_.push(bytes, out);
}

void DecodeStream::push_metaspace(std::string_view token, std::string& out) {
  const bool drop = first_ && decoder_->drop_first_spaces;
  out += replace_all(token, decoder_->space_replacement, drop ? "" : " ");
}

void DecodeStream::push_piece(std::string_view token, std::string& out) {
  std::string text(token);
  for (const auto& [from, to] : decoder_->replacements) text = replace_all(text, from, to);
  const int byte = decoder_->byte_fallback ? byte_of_token(text) : -1;
  if (byte >= 0) {
    bytes_.push_back(static_cast<char>(byte));
    return;
  }
  flush_bytes(out);
  emit(text, out);
}

// A run of byte tokens is text if all of it is; otherwise every byte of it is unknown, as in the
// reference. So none of a run is certain before its end.
void DecodeStream::flush_bytes(std::string& out) {
  if (bytes_.empty()) return;
  if (!find_invalid_utf8(bytes_)) {
    emit(bytes_, out);
  } else {
    for (std::size_t i = 0; i < bytes_.size(); ++i) emit("\uFFFD", out);
  }
  bytes_.clear();
}

void DecodeStream::emit(std::string_view text, std::string& out) {
  while (!strip_done_ && !text.empty()) {
    if (stripped_ < decoder_->strip_count && text.starts_with(decoder_->strip_content)) {
      text.remove_prefix(decoder_->strip_content.size());
      ++stripped_;
    } else {
      strip_done_ = true;
    }
  }
  out += text;
}

}  // namespace moa_rt
