#include <initializer_list>

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/chat_template.h"
#include "text/component.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace moa_rt {
namespace {

using Messages = std::vector<ChatMessage>;

// The conversation under construction.
class Parts {
 public:
  void marker(const std::string& token) { parts_.push_back({token, true}); }
  void text(std::initializer_list<std::string_view> pieces) {
    std::string joined;
    for (const std::string_view piece : pieces) joined += piece;
    parts_.push_back({std::move(joined), false});
  }
  std::vector<ChatPart> take() { return std::move(parts_); }

 private:
  std::vector<ChatPart> parts_;
};

// Python's str.strip(): White_Space and the four separators U+001C..U+001F.
bool is_stripped(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::string strip(std::string_view text) {
  std::size_t begin = 0;
  while (begin < text.size()) {
    const Utf8Char c = utf8_at(text, begin);
    if (!is_stripped(c.value)) break;
    begin += c.length;
  }
  std::size_t end = text.size();
  while (end > begin) {
    const std::size_t previous = utf8_previous(text, end);
    if (!is_stripped(utf8_at(text, previous).value)) break;
    end = previous;
  }
  return std::string(text.substr(begin, end - begin));
}

std::string strip_line_breaks(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return std::string(text);
}

[[noreturn]] void fail(std::size_t index, const std::string& got, const std::string& want) {
  throw ArgumentError(describe({.item = "message " + std::to_string(index),
                                .field = "role",
                                .got = quote_name(got),
                                .want = want}));
}

void check_roles(const Messages& messages) {
  if (messages.empty()) {
    throw ArgumentError(describe({.item = "messages", .got = "none", .want = "at least one"}));
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant") {
      fail(i, role, "system, user or assistant");
    }
  }
}

bool begins_with_system(const Messages& messages) { return messages[0].role == "system"; }

// From `first` on: user, assistant, user, and so on.
void check_alternation(const Messages& messages, std::size_t first) {
  for (std::size_t i = first; i < messages.size(); ++i) {
    const std::string want = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != want) fail(i, messages[i].role, want + ": roles alternate");
  }
}

void chatml_turn(const std::string& role, const std::string& content, Parts& parts) {
  parts.marker("<|im_start|>");
  parts.text({role, "\n", content});
  parts.marker("<|im_end|>");
  parts.text({"\n"});
}

void chatml_answer(Parts& parts) {
  parts.marker("<|im_start|>");
  parts.text({"assistant\n"});
}

void render_chatml(const ChatTemplate& style, const Messages& messages, bool answer, Parts& parts) {
  if (!begins_with_system(messages) && !style.default_system.empty()) {
    chatml_turn("system", style.default_system, parts);
  }
  for (const ChatMessage& message : messages) chatml_turn(message.role, message.content, parts);
  if (answer) chatml_answer(parts);
}

// Earlier answers lose their thoughts; an answer after the last question keeps them in their
// markers.
void qwen3_answer(const std::string& content, bool after_question, bool is_last, Parts& parts) {
  constexpr std::string_view kOpen = "<think>";
  constexpr std::string_view kClose = "</think>";
  std::string thought;
  std::string rest = content;
  const std::size_t close = content.find(kClose);
  if (close != std::string::npos) {
    const std::string before = strip_line_breaks(content.substr(0, close), false, true);
    const std::size_t open = before.rfind(kOpen);
    thought = open == std::string::npos ? before : before.substr(open + kOpen.size());
    thought = strip_line_breaks(thought, true, false);
    rest = content.substr(content.rfind(kClose) + kClose.size());
    rest = strip_line_breaks(rest, true, false);
  }
  if (!after_question || (!is_last && thought.empty())) {
    chatml_turn("assistant", rest, parts);
    return;
  }
  parts.marker("<|im_start|>");
  parts.text({"assistant\n"});
  parts.marker(std::string(kOpen));
  parts.text({"\n", strip_line_breaks(thought, true, true), "\n"});
  parts.marker(std::string(kClose));
  parts.text({"\n\n", strip_line_breaks(rest, true, false)});
  parts.marker("<|im_end|>");
  parts.text({"\n"});
}

void render_qwen3(const Messages& messages, bool answer, Parts& parts) {
  std::size_t last_question = messages.size() - 1;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "user") last_question = i;
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      qwen3_answer(messages[i].content, i > last_question, i + 1 == messages.size(), parts);
    } else {
      chatml_turn(messages[i].role, messages[i].content, parts);
    }
  }
  if (answer) chatml_answer(parts);
}

void render_llama2(const ChatTemplate& style, const Messages& messages, Parts& parts) {
  const std::size_t first = begins_with_system(messages) ? 1 : 0;
  check_alternation(messages, first);
  for (std::size_t i = first; i < messages.size(); ++i) {
    std::string content = messages[i].content;
    if (messages[i].role == "assistant") {
      parts.text({" ", strip(content), " "});
      parts.marker(style.eos);
      continue;
    }
    if (i == 1 && first == 1) {
      content.insert(0, "\n<</SYS>>\n\n").insert(0, messages[0].content).insert(0, "<<SYS>>\n");
    }
    parts.marker(style.bos);
    parts.marker("[INST]");
    parts.text({" ", strip(content), " "});
    parts.marker("[/INST]");
  }
}

void llama3_header(const std::string& role, Parts& parts) {
  parts.marker("<|start_header_id|>");
  parts.text({role});
  parts.marker("<|end_header_id|>");
  parts.text({"\n\n"});
}

void llama3_turn(const std::string& role, const std::string& content, Parts& parts) {
  llama3_header(role, parts);
  parts.text({content});
  parts.marker("<|eot_id|>");
}

// From 3.1 on the system turn is always there and begins with two dates. "Today" is the date that
// the template falls back to where there is no clock, so that the same messages give the same
// prompt.
void render_llama3(const ChatTemplate& style, const Messages& messages, bool answer, Parts& parts) {
  std::size_t first = 0;
  parts.marker(style.bos);
  if (style.family == ChatFamily::kLlama31) {
    std::string system;
    if (begins_with_system(messages)) {
      system = strip(messages[0].content);
      first = 1;
    }
    llama3_turn("system",
                "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" + system,
                parts);
  }
  for (std::size_t i = first; i < messages.size(); ++i) {
    llama3_turn(messages[i].role, strip(messages[i].content), parts);
  }
  if (answer) llama3_header("assistant", parts);
}

void mistral_answer(const ChatTemplate& style, const std::string& content, Parts& parts) {
  const MistralStyle& mistral = style.mistral;
  parts.text(
      {mistral.space_before_answer ? " " : "", mistral.trim_answer ? strip(content) : content});
  parts.marker(style.eos);
  if (mistral.space_after_answer) parts.text({" "});
}

void render_mistral(const ChatTemplate& style, const Messages& messages, Parts& parts) {
  const MistralStyle& mistral = style.mistral;
  const std::size_t first = begins_with_system(messages) ? 1 : 0;
  if (first == 1 && !mistral.system_allowed)
    fail(0, "system", "user: this model has no system role");
  check_alternation(messages, first);
  const std::size_t with_system = mistral.system_last ? messages.size() - 1 : first;
  parts.marker(style.bos);
  for (std::size_t i = first; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      mistral_answer(style, messages[i].content, parts);
      continue;
    }
    const bool has_system = first == 1 && i == with_system;
    if (mistral.space_before_open) parts.text({" "});
    parts.marker("[INST]");
    parts.text({mistral.space_after_open ? " " : "", has_system ? messages[0].content : "",
                has_system ? "\n\n" : "", messages[i].content,
                mistral.space_before_close ? " " : ""});
    parts.marker("[/INST]");
  }
}

void render_vicuna(const ChatTemplate& style, const Messages& messages, bool answer, Parts& parts) {
  constexpr std::string_view kSystem =
      "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
      "helpful, detailed, and polite answers to the user's questions.";
  const std::size_t first = begins_with_system(messages) ? 1 : 0;
  check_alternation(messages, first);
  parts.marker(style.bos);
  parts.text({first == 1 ? std::string_view(messages[0].content) : kSystem, " "});
  for (std::size_t i = first; i < messages.size(); ++i) {
    if (messages[i].role == "user") {
      parts.text({"USER: ", messages[i].content, " "});
    } else {
      parts.text({"ASSISTANT: ", messages[i].content});
      parts.marker(style.eos);
    }
  }
  if (answer) parts.text({"ASSISTANT:"});
}

void render_zephyr(const ChatTemplate& style, const Messages& messages, bool answer, Parts& parts) {
  for (const ChatMessage& message : messages) {
    parts.marker("<|" + message.role + "|>");
    parts.text({"\n", message.content});
    parts.marker(style.eos);
    parts.text({"\n"});
  }
  if (answer) {
    parts.marker("<|assistant|>");
    parts.text({"\n"});
  }
}

}  // namespace

std::vector<ChatPart> render_chat(const ChatTemplate& style, const Messages& messages,
                                  bool add_generation_prompt) {
  check_roles(messages);
  Parts parts;
  switch (style.family) {
    case ChatFamily::kChatMl:
      render_chatml(style, messages, add_generation_prompt, parts);
      break;
    case ChatFamily::kQwen3:
      render_qwen3(messages, add_generation_prompt, parts);
      break;
    case ChatFamily::kLlama2:
      render_llama2(style, messages, parts);
      break;
    case ChatFamily::kLlama3:
    case ChatFamily::kLlama31:
      render_llama3(style, messages, add_generation_prompt, parts);
      break;
    case ChatFamily::kMistral:
      render_mistral(style, messages, parts);
      break;
    case ChatFamily::kVicuna:
      render_vicuna(style, messages, add_generation_prompt, parts);
      break;
    case ChatFamily::kZephyr:
      render_zephyr(style, messages, add_generation_prompt, parts);
      break;
  }
  return parts.take();
}

}  // namespace moa_rt
