#include "moa_rt/tokenizer.h"

#include <algorithm>

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/tokenizer_impl.h"
#include "text/tokenizer_loader.h"

namespace moa_rt {
namespace {

void check_utf8(std::string_view text, const std::string& item) {
  const auto offset = find_invalid_utf8(text);
  if (!offset) return;
  throw ArgumentError(
      describe({.item = item, .note = "invalid UTF-8 at byte " + std::to_string(*offset)}));
}

void check_messages(const std::vector<ChatMessage>& messages) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    check_utf8(messages[i].content, "message " + std::to_string(i));
  }
}

const ChatTemplate& chat_template_of(const Tokenizer::Impl& tokenizer) {
  if (!tokenizer.chat_template) {
    throw UnsupportedError(describe({.file = tokenizer.path,
                                     .item = "chat template",
                                     .got = "none or an unknown one",
                                     .want = chat_family_names()}));
  }
  return *tokenizer.chat_template;
}

std::string_view trim_white_space(std::string_view text, bool left, bool right) {
  constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";
  if (left) text.remove_prefix(std::min(text.find_first_not_of(kWhiteSpace), text.size()));
  if (right) text = text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
  return text;
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::string& model_dir) {
  return Tokenizer(load_tokenizer(model_dir));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special,
                                            bool allow_special) const {
  check_utf8(text, "text");
  std::vector<std::int32_t> ids;
  const PostProcessor& around = impl_->post_processor;
  if (add_special) ids = around.before;
  impl_->encode_part(text, true, allow_special, ids);
  if (add_special) ids.insert(ids.end(), around.after.begin(), around.after.end());
  return ids;
}

std::string Tokenizer::decode(const std::vector<std::int32_t>& ids, bool skip_special) const {
  IncrementalDetokenizer stream(*this, skip_special);
  std::string text;
  for (const std::int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

std::string Tokenizer::apply_chat_template(const std::vector<ChatMessage>& messages,
                                           bool add_generation_prompt) const {
  check_messages(messages);
  std::string text;
  for (const ChatPart& part :
       render_chat(chat_template_of(*impl_), messages, add_generation_prompt)) {
    text += part.text;
  }
  return text;
}

// Neighbouring parts that are not tokens of their own are encoded together, as one text would be.
std::vector<std::int32_t> Tokenizer::encode_chat(const std::vector<ChatMessage>& messages,
                                                 bool add_generation_prompt) const {
  check_messages(messages);
  std::vector<std::int32_t> ids;
  std::string text;
  bool at_start = true;
  bool strip_left = false;
  const auto flush = [&](bool strip_right) {
    impl_->encode_part(trim_white_space(text, strip_left, strip_right), at_start, false, ids);
    text.clear();
  };
  for (const ChatPart& part :
       render_chat(chat_template_of(*impl_), messages, add_generation_prompt)) {
    const AddedToken* token = part.is_marker ? impl_->find_added(part.text) : nullptr;
    if (token == nullptr) {
      text += part.text;
      continue;
    }
    flush(token->lstrip);
    ids.push_back(token->id);
    at_start = false;
    strip_left = token->rstrip;
  }
  flush(false);
  return ids;
}

bool Tokenizer::has_chat_template() const { return impl_->chat_template.has_value(); }

std::int64_t Tokenizer::vocab_size() const { return impl_->vocabulary.size(); }

std::optional<std::int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const std::int32_t id = impl_->vocabulary.find(token);
  return id == Vocabulary::kNotFound ? std::nullopt : std::optional(id);
}

std::string Tokenizer::id_to_token(std::int32_t id) const {
  return std::string(impl_->vocabulary.text(impl_->checked_id(id)));
}

bool Tokenizer::is_special(std::int32_t id) const {
  return impl_->is_special(impl_->checked_id(id));
}

std::int64_t Tokenizer::memory_bytes() const { return impl_->memory_bytes(); }

}  // namespace moa_rt
