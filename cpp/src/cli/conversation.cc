#include "cli/conversation.h"

#include <algorithm>
#include <utility>

namespace moa_rt::cli {
namespace {

std::vector<ChatMessage> opening(const std::string& system, const std::string& text) {
  std::vector<ChatMessage> messages;
  if (!system.empty()) messages.push_back({"system", system});
  messages.push_back({"user", text});
  return messages;
}

}  // namespace

Conversation::Conversation(Engine& engine, std::string system, std::int64_t budget)
    : engine_(engine),
      system_(std::move(system)),
      budget_(budget),
      session_(engine.open_session(budget)) {}

Conversation::~Conversation() {
  try {
    engine_.close_session(session_);
  } catch (const Error&) {
    // A closed engine has already freed its sessions.
  }
}

void Conversation::reset() {
  engine_.close_session(session_);
  session_ = engine_.open_session(budget_);
  last_token_ = -1;
}

// The template is rendered around a stand-in answer; what follows it, from the token that ends the
// assistant's turn on, is the same after any answer.
std::vector<std::int32_t> Conversation::turn_tokens(const std::string& text) const {
  const Tokenizer& tokenizer = engine_.tokenizer();
  std::vector<ChatMessage> messages = opening(system_, last_token_ < 0 ? text : "x");
  const std::vector<std::int32_t> head = tokenizer.encode_chat(messages);
  if (last_token_ < 0) return head;
  messages.push_back({"assistant", "x"});
  messages.push_back({"user", text});
  const std::vector<std::int32_t> all = tokenizer.encode_chat(messages);
  const auto shared = std::mismatch(head.begin(), head.end(), all.begin(), all.end());
  auto end_of_turn = std::find_if(shared.second, all.end(),
                                  [&](std::int32_t id) { return tokenizer.is_special(id); });
  if (end_of_turn != all.end() && *end_of_turn == last_token_) ++end_of_turn;
  return {end_of_turn, all.end()};
}

Answer Conversation::ask(const std::string& text, const RequestOptions& options,
                         const std::function<void(std::string_view)>& on_text) {
  RequestOptions turn = options;
  turn.session = session_;
  const std::int64_t length_before = engine_.session_length(session_);
  const std::vector<std::int32_t> tokens = turn_tokens(text);
  // An answer may use what the budget leaves; the turn itself must fit, which submit() checks.
  const std::int64_t left = budget_ - length_before - static_cast<std::int64_t>(tokens.size());
  turn.max_new_tokens =
      std::min(turn.max_new_tokens.value_or(left), std::max<std::int64_t>(left, 1));
  Answer answer = stream_answer(engine_, tokens, turn, on_text);
  if (!answer.completion.token_ids.empty()) {
    last_token_ = answer.completion.token_ids.back();
  } else if (!answer.abandoned) {
    undo_unanswered_turn(length_before);
  }
  return answer;
}

// Ctrl-C during prefill: part of the turn is in the cache, and no answer follows it.
void Conversation::undo_unanswered_turn(std::int64_t length_before) {
  const std::int64_t excess = engine_.session_length(session_) - length_before;
  if (excess <= 0) return;
  try {
    engine_.rollback_session(session_, excess);
  } catch (const StateError&) {
    reset();
    throw StateError(
        "the stopped turn cannot be taken back: a window has moved on; starting again");
  }
}

}  // namespace moa_rt::cli
