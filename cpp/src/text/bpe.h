// Byte pair encoding of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/merge_table.h"
#include "text/vocabulary.h"

namespace moa_rt {

// What a piece is made of before the first merge.
enum class BpeUnit {
  kCharacter,  // SentencePiece style: UTF-8 characters, `<0xNN>` tokens for unknown ones
  kByte,       // byte level: each byte is spelled by a character of the byte alphabet
};

// Reused between pieces, so that a text costs a handful of allocations.
struct BpeScratch {
  struct Symbol {
    std::int32_t id;  // kDead once merged into its left neighbour
    std::size_t previous;
    std::size_t next;
  };
  struct Candidate {
    std::uint32_t rank;
    std::int32_t id;  // of the joined token
    std::size_t position;
  };
  static constexpr std::int32_t kDead = -1;

  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
  std::string spelling;
};

class Bpe {
 public:
  // `model` is the object "model" of tokenizer.json, `vocabulary` its vocabulary. Throws
  // FormatError and UnsupportedError.
  Bpe(const Json& model, MergeTable merges, const Vocabulary& vocabulary, BpeUnit unit,
      const std::string& path);

  // Appends the ids of `piece` (checked UTF-8, not empty). O(n log n) in its length: the pair of
  // lowest rank, leftmost first, is merged until no pair of neighbours merges.
  void encode(std::string_view piece, const Vocabulary& vocabulary, BpeScratch& scratch,
              std::vector<std::int32_t>& ids) const;

  std::int64_t memory_bytes() const { return merges_.memory_bytes(); }

 private:
  void add_byte_symbols(std::string_view piece, BpeScratch& scratch) const;
  void add_character_symbols(std::string_view piece, const Vocabulary& vocabulary,
                             BpeScratch& scratch) const;
  bool add_byte_tokens(std::string_view character, BpeScratch& scratch) const;
  void add_unknown(bool& pending, BpeScratch& scratch) const;
  void merge_symbols(BpeScratch& scratch) const;
  void push_candidate(std::size_t position, BpeScratch& scratch) const;
  static void link(BpeScratch& scratch);

  MergeTable merges_;
  BpeUnit unit_;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;  // a piece that is a token is that token
  std::int32_t unknown_id_ = Vocabulary::kNotFound;
  std::array<std::int32_t, 256> byte_ids_{};  // of the alphabet or of `<0xNN>`
};

}  // namespace moa_rt
