#include "text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "text/unicode.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

bool word_before(std::string_view text, std::size_t position) {
  return position > 0 && is_word(utf8_at(text, utf8_previous(text, position)).value);
}

bool word_after(std::string_view text, std::size_t position) {
  return position < text.size() && is_word(utf8_at(text, position).value);
}

std::size_t white_space_begin(std::string_view text, std::size_t position) {
  while (position > 0) {
    const std::size_t previous = utf8_previous(text, position);
    if (!is_white_space(utf8_at(text, previous).value)) break;
    position = previous;
  }
  return position;
}

std::size_t white_space_end(std::string_view text, std::size_t position) {
  while (position < text.size()) {
    const Utf8Char c = utf8_at(text, position);
    if (!is_white_space(c.value)) break;
    position += c.length;
  }
  return position;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens,
                                     const std::vector<std::string>& spellings)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    insert(spellings[i], static_cast<std::int32_t>(i));
  }
  nodes_.shrink_to_fit();
}

void AddedTokenMatcher::insert(std::string_view spelling, std::int32_t token) {
  std::int32_t node = 0;
  for (const char byte : spelling) {
    std::int32_t next = child(node, byte);
    if (next <= 0) {
      next = static_cast<std::int32_t>(nodes_.size());
      Node added;
      added.byte = byte;
      if (node == 0) {
        roots_[static_cast<unsigned char>(byte)] = next;
      } else {
        auto& parent = nodes_[static_cast<std::size_t>(node)];
        added.next_sibling = std::exchange(parent.first_child, next);
      }
      nodes_.push_back(added);
    }
    node = next;
  }
  auto& end = nodes_[static_cast<std::size_t>(node)];
  if (node != 0 && end.token < 0) end.token = token;
}

std::int32_t AddedTokenMatcher::child(std::int32_t node, char byte) const {
  if (node == 0) return roots_[static_cast<unsigned char>(byte)];
  std::int32_t next = nodes_[static_cast<std::size_t>(node)].first_child;
  while (next >= 0 && nodes_[static_cast<std::size_t>(next)].byte != byte) {
    next = nodes_[static_cast<std::size_t>(next)].next_sibling;
  }
  return next;
}

AddedTokenMatcher::Match AddedTokenMatcher::match_at(std::string_view text, std::size_t position,
                                                     bool allow_special) const {
  Match best;
  std::int32_t node = 0;
  while (position < text.size()) {
    node = child(node, text[position]);
    if (node <= 0) break;
    ++position;
    const std::int32_t token = nodes_[static_cast<std::size_t>(node)].token;
    if (token >= 0 && (allow_special || !tokens_[static_cast<std::size_t>(token)].special)) {
      best = {token, position};
    }
  }
  return best;
}

// `taken` may fall back when a match lies inside white space that the token before it has stripped;
// the reference emits that white space again, and so must we.
void AddedTokenMatcher::split(std::string_view text, bool at_start, bool allow_special,
                              std::vector<TextSegment>& segments) const {
  const auto add = [&](std::size_t begin, std::size_t end, std::int32_t id) {
    segments.push_back({text.substr(begin, end - begin), id, at_start && begin == 0});
  };
  std::size_t taken = 0;
  for (std::size_t position = 0; position < text.size() && !tokens_.empty();) {
    const Match match = match_at(text, position, allow_special);
    if (match.token < 0) {
      ++position;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(match.token)];
    std::size_t begin = position;
    std::size_t end = match.end;
    position = match.end;
    if (token.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (token.lstrip) begin = std::max(white_space_begin(text, begin), taken);
    if (token.rstrip) end = white_space_end(text, end);
    if (taken < begin) add(taken, begin, TextSegment::kText);
    add(begin, std::max(begin, end), token.id);
    taken = end;
  }
  if (taken < text.size()) add(taken, text.size(), TextSegment::kText);
}

std::int64_t AddedTokenMatcher::memory_bytes() const {
  std::size_t bytes = tokens_.capacity() * sizeof(AddedToken) + nodes_.capacity() * sizeof(Node);
  for (const AddedToken& token : tokens_) bytes += heap_bytes(token.content);
  return static_cast<std::int64_t>(bytes);
}

}  // namespace moa_rt
