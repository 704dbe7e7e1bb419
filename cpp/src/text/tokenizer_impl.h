// What a loaded tokenizer holds. Built once by `load_tokenizer`, never changed after.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
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
  bool is_special(std::int32_t id) const { return has_flag(id, kSpecial); }
  // What a token stands for when it is decoded: its spelling, in normalised form if it is looked
  // for in that form, so that decoding gives back the text it was found in.
  std::string_view decoded_text(std::int32_t id) const;
  std::int64_t memory_bytes() const;

  static constexpr std::uint8_t kSpecial = 1;
  static constexpr std::uint8_t kRespelled = 2;
  bool has_flag(std::int32_t id, std::uint8_t flag) const {
    return (flags[static_cast<std::size_t>(id)] & flag) != 0;
  }
  void set_flag(std::int32_t id, std::uint8_t flag) { flags[static_cast<std::size_t>(id)] |= flag; }

  Vocabulary vocabulary;
  Bpe bpe;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  TokenDecoder decoder;
  AddedTokenMatcher raw_tokens;         // looked for in the text as given
  AddedTokenMatcher normalized_tokens;  // looked for after normalisation
  std::vector<AddedToken> added;
  std::vector<std::pair<std::int32_t, std::string>>
      respelled;                    // added tokens changed by normalising
  std::vector<std::uint8_t> flags;  // of each id
  std::optional<ChatTemplate> chat_template;
  std::string path;  // of the model, for messages
};

}  // namespace moa_rt
