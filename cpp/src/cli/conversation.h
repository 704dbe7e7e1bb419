// A conversation over one live sequence: each turn appends only its own tokens.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/stream.h"
#include "moa_rt/engine.h"

namespace moa_rt::cli {

class Conversation {
 public:
  // `budget` tokens for the whole conversation; `system` may be empty. The engine must outlive
  // this.
  Conversation(Engine& engine, std::string system, std::int64_t budget);
  ~Conversation();
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  // One turn. Ctrl-C ends the answer early; the conversation goes on. Throws and leaves the
  // conversation as it was if the turn does not fit the budget.
  Answer ask(const std::string& text, const RequestOptions& options,
             const std::function<void(std::string_view)>& on_text);

  // Forgets everything.
  void reset();

 private:
  std::vector<std::int32_t> turn_tokens(const std::string& text) const;
  void undo_unanswered_turn(std::int64_t length_before);

  Engine& engine_;
  std::string system_;
  std::int64_t budget_;
  SessionId session_;
  std::int32_t last_token_ = -1;  // of the latest answer; -1 before the first turn
};

}  // namespace moa_rt::cli
