// The chat formats of the supported families, built in. A model's own template is only looked at to
// recognise its family; it is never executed (D11).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moa_rt/tokenizer.h"

namespace moa_rt {

enum class ChatFamily { kChatMl, kQwen3, kLlama2, kLlama3, kLlama31, kMistral, kVicuna, kZephyr };

// Published Mistral templates differ in white space and in where a system message goes.
struct MistralStyle {
  bool space_before_open = false;  // " [INST]"
  bool space_after_open = true;    // "[INST] "
  bool space_before_close = true;  // " [/INST]"
  bool system_allowed = false;
  bool system_last = false;  // with the last message if that is the user's, instead of the first
  bool space_before_answer = false;
  bool trim_answer = false;
  bool space_after_answer = false;
};

struct ChatTemplate {
  ChatFamily family = ChatFamily::kChatMl;
  std::string bos;
  std::string eos;
  std::string default_system;  // ChatML: inserted where a conversation begins without one
  MistralStyle mistral;
};

// The family whose markers `jinja` (may be empty) holds, or nullopt. `bos` and `eos` are the
// model's own tokens; empty means the family's usual ones.
std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja, const std::string& bos,
                                                    const std::string& eos);

// By name, for models whose files hold no template. Throws UnsupportedError for an unknown name.
ChatTemplate chat_template_of_family(const std::string& name, const std::string& bos,
                                     const std::string& eos, const std::string& path);

// For messages: "chatml, qwen3, ...".
std::string chat_family_names();

// A part of a rendered conversation. A marker becomes one token where the tokenizer has it as an
// added token; everything else is text in which no special token is looked for (D8).
struct ChatPart {
  std::string text;
  bool is_marker = false;
};

// Throws ArgumentError for an empty conversation, an unknown role, or an order of roles that the
// family does not allow.
std::vector<ChatPart> render_chat(const ChatTemplate& chat_template,
                                  const std::vector<ChatMessage>& messages,
                                  bool add_generation_prompt);

}  // namespace moa_rt
