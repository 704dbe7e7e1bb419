#include "text/bpe.h"

#include <algorithm>
#include <utility>

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/byte_alphabet.h"
#include "text/component.h"
#include "text/token_decoder.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

using Symbol = BpeScratch::Symbol;
using Candidate = BpeScratch::Candidate;

constexpr std::size_t kNone = ~std::size_t{0};

// Heap order: the top is the lowest rank, leftmost first.
bool comes_later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

void require_absent(const JsonObject& model, const char* field) {
  if (!model.has(field)) return;
  const Json& value = model.at(field);
  if (value.is_string() && value.get_ref<const std::string&>().empty()) return;
  if (value.is_number() && value.get<double>() == 0) return;
  throw UnsupportedError(describe({.file = model.path(),
                                   .item = "model",
                                   .field = field,
                                   .got = escape_name(value.dump().substr(0, 80)),
                                   .want = "null"}));
}

bool read_flag(const JsonObject& model, const char* field) {
  return model.has(field) && model.boolean(field);
}

std::string byte_token(int byte) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string token = "<0x00>";
  token[3] = kHex[static_cast<std::size_t>(byte >> 4)];
  token[4] = kHex[static_cast<std::size_t>(byte & 15)];
  return token;
}

// With byte fallback, a token that looks like a byte token must be one (D5).
void check_byte_tokens(const Vocabulary& vocabulary, const std::string& path) {
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view token = vocabulary.text(static_cast<std::int32_t>(id));
    if (!token.starts_with("<0x") || !token.ends_with('>') || byte_of_token(token) >= 0) continue;
    throw FormatError(describe({.file = path,
                                .item = quoted_item("token", token),
                                .got = "a byte token that is no byte",
                                .want = "two hexadecimal digits"}));
  }
}

}  // namespace

Bpe::Bpe(const Json& model, MergeTable merges, const Vocabulary& vocabulary, BpeUnit unit,
         const std::string& path)
    : merges_(std::move(merges)), unit_(unit) {
  const JsonObject object(model, path, "model");
  for (const char* field : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    require_absent(object, field);
  }
  byte_fallback_ = read_flag(object, "byte_fallback");
  if (byte_fallback_) check_byte_tokens(vocabulary, path);
  fuse_unknown_ = read_flag(object, "fuse_unk");
  ignore_merges_ = read_flag(object, "ignore_merges");
  if (object.has("unk_token")) {
    const std::string token = object.string("unk_token");
    unknown_id_ = vocabulary.find_in_model(token);
    if (unknown_id_ == Vocabulary::kNotFound) {
      throw FormatError(describe({.file = path,
                                  .item = "model",
                                  .field = "unk_token",
                                  .got = quote_name(token),
                                  .want = "a token of the vocabulary"}));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    std::string token = byte_token(byte);
    if (unit == BpeUnit::kByte) {
      token.clear();
      append_utf8(kByteCharacters[static_cast<std::size_t>(byte)], token);
    }
    const std::int32_t id = vocabulary.find_in_model(token);
    byte_ids_[static_cast<std::size_t>(byte)] = id;
    if (unit == BpeUnit::kByte && byte_fallback_ && id == Vocabulary::kNotFound) {
      fail_unsupported(path, "model", "byte_fallback",
                       "true with an incomplete byte-level vocabulary", "false");
    }
  }
}

void Bpe::add_unknown(bool& pending, BpeScratch& scratch) const {
  if (unknown_id_ == Vocabulary::kNotFound) return;  // unknown text vanishes, as in the reference
  if (pending && !fuse_unknown_) scratch.symbols.push_back({unknown_id_, 0, 0});
  pending = true;
}

void Bpe::add_byte_symbols(std::string_view piece, BpeScratch& scratch) const {
  bool pending = false;
  for (const char character : piece) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(character)];
    if (id == Vocabulary::kNotFound) {
      add_unknown(pending, scratch);
      continue;
    }
    if (std::exchange(pending, false)) scratch.symbols.push_back({unknown_id_, 0, 0});
    scratch.symbols.push_back({id, 0, 0});
  }
  if (pending) scratch.symbols.push_back({unknown_id_, 0, 0});
}

bool Bpe::add_byte_tokens(std::string_view character, BpeScratch& scratch) const {
  if (!byte_fallback_) return false;
  const auto id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
  for (const char byte : character) {
    if (id(byte) == Vocabulary::kNotFound) return false;
  }
  for (const char byte : character) scratch.symbols.push_back({id(byte), 0, 0});
  return true;
}

// The reference does not emit a pending unknown before byte tokens; neither do we.
void Bpe::add_character_symbols(std::string_view piece, const Vocabulary& vocabulary,
                                BpeScratch& scratch) const {
  bool pending = false;
  for (std::size_t position = 0; position < piece.size();) {
    const std::string_view character = piece.substr(position, utf8_at(piece, position).length);
    position += character.size();
    const std::int32_t id = vocabulary.find_in_model(character);
    if (id != Vocabulary::kNotFound) {
      if (std::exchange(pending, false)) scratch.symbols.push_back({unknown_id_, 0, 0});
      scratch.symbols.push_back({id, 0, 0});
    } else if (!add_byte_tokens(character, scratch)) {
      add_unknown(pending, scratch);
    }
  }
  if (pending) scratch.symbols.push_back({unknown_id_, 0, 0});
}

void Bpe::link(BpeScratch& scratch) {
  auto& symbols = scratch.symbols;
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    symbols[i].previous = i == 0 ? kNone : i - 1;
    symbols[i].next = i + 1 == symbols.size() ? kNone : i + 1;
  }
}

void Bpe::push_candidate(std::size_t position, BpeScratch& scratch) const {
  if (position == kNone || scratch.symbols[position].next == kNone) return;
  const Symbol& left = scratch.symbols[position];
  const Merge merge = merges_.find(left.id, scratch.symbols[left.next].id);
  if (merge.id == Vocabulary::kNotFound) return;
  scratch.heap.push_back({merge.rank, merge.id, position});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
}

// Every merge removes a symbol and adds at most two candidates, so the heap sees O(n) entries. An
// entry is stale if its pair has changed meanwhile: then it no longer merges into the same token.
void Bpe::merge_symbols(BpeScratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
    const Merge merge = merges_.find(symbols[i].id, symbols[i + 1].id);
    if (merge.id != Vocabulary::kNotFound) heap.push_back({merge.rank, merge.id, i});
  }
  std::make_heap(heap.begin(), heap.end(), comes_later);
  while (!heap.empty()) {
    const Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    heap.pop_back();
    Symbol& left = symbols[top.position];
    if (left.id == BpeScratch::kDead || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (merges_.find(left.id, right.id).id != top.id) continue;
    left.id = top.id;
    left.next = right.next;
    right.id = BpeScratch::kDead;
    if (left.next != kNone) symbols[left.next].previous = top.position;
    push_candidate(left.previous, scratch);
    push_candidate(top.position, scratch);
  }
}

void Bpe::encode(std::string_view piece, const Vocabulary& vocabulary, BpeScratch& scratch,
                 std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    std::string_view spelling = piece;
    if (unit_ == BpeUnit::kByte) {
      scratch.spelling.clear();
      for (const char byte : piece) {
        append_utf8(kByteCharacters[static_cast<unsigned char>(byte)], scratch.spelling);
      }
      spelling = scratch.spelling;
    }
    const std::int32_t id = vocabulary.find_in_model(spelling);
    if (id != Vocabulary::kNotFound) {
      ids.push_back(id);
      return;
    }
  }
  scratch.symbols.clear();
  if (unit_ == BpeUnit::kByte) {
    add_byte_symbols(piece, scratch);
  } else {
    add_character_symbols(piece, vocabulary, scratch);
  }
  link(scratch);
  merge_symbols(scratch);
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.id != BpeScratch::kDead) ids.push_back(symbol.id);
  }
}

}  // namespace moa_rt
