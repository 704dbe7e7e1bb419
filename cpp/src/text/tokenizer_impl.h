// What a loaded tokenizer holds. Built once by `load_tokenizer`, never changed after.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moa_rt/tokenizer.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/chat_template.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/vocabulary.h"

namespace moa_rt {

class Tokenizer::Impl {
 public:
  Impl(Vocabulary vocabulary_in, Bpe bpe_in)
      : vocabulary(std::move(vocabulary_in)), bpe(std::move(bpe_in)) {}

  // Appends the ids of a part of a text; `at_start` says that the part begins the text.
  void encode_part(std::string_view text, bool at_start, bool allow_special,
                   std::vector<std::int32_t>& ids) const;
  const AddedToken* find_added(std::string_view content) const;
  // Throws ArgumentError for an id outside the vocabulary.
  std::int32_t checked_id(std::int32_t id) const;
  bool is_special(std::int32_t id) const { return special[static_cast<std::size_t>(id)] != 0; }
  std::int64_t memory_bytes() const;

  Vocabulary vocabulary;
  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  TokenDecoder decoder;
  AddedTokenMatcher raw_tokens;         // looked for in the text as given
  AddedTokenMatcher normalized_tokens;  // looked for after normalisation
  std::vector<AddedToken> added;
  std::vector<std::uint8_t> special;  // one flag per id
  std::optional<ChatTemplate> chat_template;
  std::string path;  // of the model, for messages
};

}  // namespace moa_rt
