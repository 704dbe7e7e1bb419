#include "text/tokenizer_impl.h"

#include <algorithm>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {

void Tokenizer::Impl::encode_part(std::string_view text, bool at_start, bool allow_special,
                                  std::vector<std::int32_t>& ids) const {
  BpeScratch bpe_scratch;
  PreTokenizer::Scratch scratch;
  std::vector<TextSegment> segments;
  std::vector<TextSegment> parts;
  raw_tokens.split(text, at_start, allow_special, segments);
  for (const TextSegment& segment : segments) {
    if (segment.id != TextSegment::kText) {
      ids.push_back(segment.id);
      continue;
    }
    std::string normalized;
    std::string_view part_text = segment.text;
    if (!normalizer.is_identity()) {
      normalized = normalizer.apply(segment.text);
      part_text = normalized;
    }
    parts.clear();
    normalized_tokens.split(part_text, segment.at_start, allow_special, parts);
    for (const TextSegment& part : parts) {
      if (part.id != TextSegment::kText) {
        ids.push_back(part.id);
        continue;
      }
      pre_tokenizer.split(part.text, part.at_start, scratch);
      for (const std::string_view piece : scratch.pieces) {
        bpe.encode(piece, vocabulary, bpe_scratch, ids);
      }
    }
  }
}

const AddedToken* Tokenizer::Impl::find_added(std::string_view content) const {
  const auto found = std::find_if(added.begin(), added.end(), [&](const AddedToken& token) {
    return token.content == content;
  });
  return found == added.end() ? nullptr : &*found;
}

std::int32_t Tokenizer::Impl::checked_id(std::int32_t id) const {
  if (!vocabulary.contains(id)) {
    throw ArgumentError(describe({.item = "token id",
                                  .got = std::to_string(id),
                                  .want = "0.." + std::to_string(vocabulary.size() - 1)}));
  }
  return id;
}

std::string_view Tokenizer::Impl::decoded_text(std::int32_t id) const {
  if (!has_flag(id, kRespelled)) return vocabulary.text(id);
  const auto found = std::find_if(respelled.begin(), respelled.end(),
                                  [id](const auto& entry) { return entry.first == id; });
  return found->second;
}

std::int64_t Tokenizer::Impl::memory_bytes() const {
  std::size_t bytes =
      sizeof(Impl) + flags.capacity() + heap_bytes(path) + added.capacity() * sizeof(AddedToken) +
      respelled.capacity() * sizeof(respelled[0]) +
      (post_processor.before.capacity() + post_processor.after.capacity()) * sizeof(std::int32_t);
  for (const AddedToken& token : added) bytes += heap_bytes(token.content);
  for (const auto& entry : respelled) bytes += heap_bytes(entry.second);
  if (chat_template) {
    bytes += heap_bytes(chat_template->bos) + heap_bytes(chat_template->eos) +
             heap_bytes(chat_template->default_system);
  }
  return static_cast<std::int64_t>(bytes) + vocabulary.memory_bytes() + bpe.memory_bytes() +
         raw_tokens.memory_bytes() + normalized_tokens.memory_bytes();
}

}  // namespace moa_rt
