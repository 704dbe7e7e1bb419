#include "text/chat_template.h"

#include <array>

#include "core/message.h"
#include "moa_rt/error.h"
#include "text/component.h"

namespace moa_rt {
namespace {

struct FamilyName {
  std::string_view name;
  ChatFamily family;
};

constexpr std::array<FamilyName, 8> kFamilies{{
    {"chatml", ChatFamily::kChatMl},
    {"qwen3", ChatFamily::kQwen3},
    {"llama2", ChatFamily::kLlama2},
    {"llama3", ChatFamily::kLlama3},
    {"llama3.1", ChatFamily::kLlama31},
    {"mistral", ChatFamily::kMistral},
    {"vicuna", ChatFamily::kVicuna},
    {"zephyr", ChatFamily::kZephyr},
}};

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// True if `literal` is quoted in either way.
bool has_literal(std::string_view jinja, const std::string& literal) {
  return has(jinja, "\"" + literal + "\"") || has(jinja, "'" + literal + "'");
}

std::optional<ChatFamily> find_family(std::string_view jinja) {
  if (has(jinja, "<|start_header_id|>") && has(jinja, "<|eot_id|>")) {
    return has(jinja, "Cutting Knowledge Date") ? ChatFamily::kLlama31 : ChatFamily::kLlama3;
  }
  if (has(jinja, "<|im_start|>") && has(jinja, "<|im_end|>")) {
    return has(jinja, "</think>") ? ChatFamily::kQwen3 : ChatFamily::kChatMl;
  }
  if (has(jinja, "[INST]") && !has(jinja, "[SYSTEM_PROMPT]")) {
    return has(jinja, "<<SYS>>") ? ChatFamily::kLlama2 : ChatFamily::kMistral;
  }
  if (has(jinja, "<|user|>") && has(jinja, "<|assistant|>") && has(jinja, "eos_token")) {
    return ChatFamily::kZephyr;
  }
  if (has(jinja, "USER: ") && has(jinja, "ASSISTANT:")) return ChatFamily::kVicuna;
  return std::nullopt;
}

// A Jinja string literal's value; only the escapes that published templates use.
std::string unescape(std::string_view literal) {
  std::string out;
  for (std::size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\' || i + 1 == literal.size()) {
      out += literal[i];
      continue;
    }
    const char c = literal[++i];
    out += c == 'n' ? '\n' : c == 't' ? '\t' : c;
  }
  return out;
}

// The literal "<|im_start|>system\n<text><|im_end|>" in a ChatML template: what it inserts when
// there is no system message. Inside an expression the literal ends before <|im_end|>.
std::string find_default_system(std::string_view jinja) {
  constexpr std::string_view kOpen = "<|im_start|>system";
  for (std::size_t at = jinja.find(kOpen); at != std::string_view::npos;
       at = jinja.find(kOpen, at + 1)) {
    const char quote = at > 0 ? jinja[at - 1] : '\0';
    std::string_view rest = jinja.substr(at + kOpen.size());
    const std::size_t line_break = rest.starts_with("\\n") ? 2 : rest.starts_with("\n") ? 1 : 0;
    if (line_break == 0 || (quote != '\'' && quote != '"')) continue;
    rest.remove_prefix(line_break);
    const std::size_t end = rest.find("<|im_end|>");
    if (end == std::string_view::npos || rest.find(quote) < end) continue;
    return unescape(rest.substr(0, end));
  }
  return "";
}

MistralStyle read_mistral_style(std::string_view jinja) {
  MistralStyle style;
  style.space_before_open = has_literal(jinja, " [INST] ");
  style.space_after_open = style.space_before_open || has_literal(jinja, "[INST] ");
  style.space_before_close = has_literal(jinja, " [/INST]");
  style.system_allowed = has(jinja, "system_message");
  style.system_last = has(jinja, "loop.last and system_message");
  style.space_before_answer =
      has(jinja, "\" \" + message[\"content\"]") || has(jinja, "' ' + message['content']");
  style.trim_answer = has(jinja, "|trim + eos_token") || has(jinja, "| trim + eos_token");
  style.space_after_answer = has(jinja, "eos_token + ' '") || has(jinja, "eos_token + \" \"");
  return style;
}

ChatTemplate make_template(ChatFamily family, const std::string& bos, const std::string& eos) {
  ChatTemplate result;
  result.family = family;
  const bool llama3 = family == ChatFamily::kLlama3 || family == ChatFamily::kLlama31;
  result.bos = !bos.empty() ? bos : llama3 ? "<|begin_of_text|>" : "<s>";
  result.eos = !eos.empty() ? eos : llama3 ? "<|eot_id|>" : "</s>";
  return result;
}

}  // namespace

std::optional<ChatTemplate> recognise_chat_template(std::string_view jinja, const std::string& bos,
                                                    const std::string& eos) {
  const auto family = find_family(jinja);
  if (!family) return std::nullopt;
  ChatTemplate result = make_template(*family, bos, eos);
  if (*family == ChatFamily::kChatMl) result.default_system = find_default_system(jinja);
  if (*family == ChatFamily::kMistral) result.mistral = read_mistral_style(jinja);
  return result;
}

ChatTemplate chat_template_of_family(const std::string& name, const std::string& bos,
                                     const std::string& eos, const std::string& path) {
  for (const FamilyName& known : kFamilies) {
    if (known.name == name) return make_template(known.family, bos, eos);
  }
  throw UnsupportedError(describe({.file = path,
                                   .field = "moa_rt_chat_family",
                                   .got = quote_name(name),
                                   .want = "one of " + chat_family_names()}));
}

std::string chat_family_names() {
  std::string names;
  for (const FamilyName& known : kFamilies) {
    if (!names.empty()) names += ", ";
    names += known.name;
  }
  return names;
}

}  // namespace moa_rt
