#include "text/tokenizer_loader.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

#include "core/json.h"
#include "core/message.h"
#include "io/file.h"
#include "moa_rt/error.h"
#include "text/component.h"
#include "text/tokenizer_json.h"

namespace moa_rt {
namespace {

constexpr std::int64_t kMaxTokenizerBytes = std::int64_t{64} << 20;
constexpr std::int64_t kMaxConfigBytes = std::int64_t{4} << 20;

Json read_json(const std::string& path, std::int64_t max_bytes) {
  JsonLimits limits;
  limits.max_bytes = static_cast<std::size_t>(max_bytes);
  return parse_json(read_text(path, max_bytes), path, limits);
}

// A component that may be absent or null.
Json component(const JsonObject& root, const char* field) {
  return root.has(field) ? root.at(field) : Json(nullptr);
}

void check_header(const JsonObject& root, const JsonObject& model) {
  if (root.has("version") && root.string("version") != "1.0") {
    fail_unsupported(root.path(), "", "version", quote_name(root.string("version")), "\"1.0\"");
  }
  if (model.has("type") && model.string("type") != "BPE") {
    fail_unsupported(root.path(), "model", "type", quote_name(model.string("type")), "\"BPE\"");
  }
}

AddedToken read_added_token(const Json& value, std::size_t index, const std::string& path) {
  const JsonObject object(value, path, "added token " + std::to_string(index));
  AddedToken token;
  token.content = object.string("content");
  if (token.content.empty() || token.content.size() > AddedTokenMatcher::kMaxContentBytes) {
    throw FormatError(
        describe({.file = path,
                  .item = "added token " + std::to_string(index),
                  .field = "content",
                  .got = std::to_string(token.content.size()) + " bytes",
                  .want = "1.." + std::to_string(AddedTokenMatcher::kMaxContentBytes)}));
  }
  token.id = static_cast<std::int32_t>(object.integer("id", 0, INT32_MAX));
  token.single_word = object.boolean("single_word");
  token.lstrip = object.boolean("lstrip");
  token.rstrip = object.boolean("rstrip");
  token.normalized = object.boolean("normalized");
  token.special = object.boolean("special");
  return token;
}

void check_model(const TokenizerJson& file, const std::string& path) {
  for (const auto& [there, field, want] :
       {std::tuple(file.has_vocabulary && file.tokens.size() > 0, "vocab", "an object of ids"),
        std::tuple(file.has_merges, "merges", "an array")}) {
    if (there) continue;
    throw FormatError(
        describe({.file = path, .item = "model", .field = field, .got = "none", .want = want}));
  }
}

// Special tokens first: where two spellings are equal after normalisation, the first one counts.
std::vector<AddedToken> read_added_tokens(const JsonObject& root) {
  std::vector<AddedToken> tokens;
  if (!root.has("added_tokens")) return tokens;
  const Json& list = root.array("added_tokens");
  tokens.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    tokens.push_back(read_added_token(list[i], i, root.path()));
  }
  std::stable_partition(tokens.begin(), tokens.end(),
                        [](const AddedToken& token) { return token.special; });
  return tokens;
}

// The vocabulary of the model and, beside it, the added tokens that it does not hold. An added
// token that it holds must have the same id there.
Vocabulary make_vocabulary(const TokenizerJson& file, const std::vector<AddedToken>& added,
                           const std::string& path) {
  std::unordered_map<std::string_view, const AddedToken*> outside;
  for (const AddedToken& token : added) outside.emplace(token.content, &token);
  std::vector<VocabularyEntry> model;
  model.reserve(file.tokens.size());
  for (std::size_t i = 0; i < file.tokens.size(); ++i) {
    model.push_back({file.tokens[i], file.ids[i]});
    const auto found = outside.find(file.tokens[i]);
    if (found == outside.end()) continue;
    if (found->second->id != file.ids[i]) {
      throw FormatError(describe({.file = path,
                                  .item = quoted_item("added token", file.tokens[i]),
                                  .field = "id",
                                  .got = std::to_string(found->second->id),
                                  .want = std::to_string(file.ids[i]) + " as in the vocabulary"}));
    }
    outside.erase(found);
  }
  std::vector<VocabularyEntry> rest;
  for (const AddedToken& token : added) {
    if (outside.contains(token.content)) rest.push_back({token.content, token.id});
  }
  return Vocabulary(model, rest, path);
}

void add_matchers(Tokenizer::Impl& tokenizer) {
  std::vector<AddedToken> tokens[2];
  std::vector<std::string> spellings[2];
  tokenizer.flags.assign(static_cast<std::size_t>(tokenizer.vocabulary.size()), 0);
  for (const AddedToken& token : tokenizer.added) {
    std::string spelling =
        token.normalized ? tokenizer.normalizer.apply(token.content) : token.content;
    if (token.special) tokenizer.set_flag(token.id, Tokenizer::Impl::kSpecial);
    if (spelling != token.content) {
      tokenizer.set_flag(token.id, Tokenizer::Impl::kRespelled);
      tokenizer.respelled.emplace_back(token.id, spelling);
    }
    const std::size_t list = token.normalized ? 1 : 0;
    tokens[list].push_back(token);
    spellings[list].push_back(std::move(spelling));
  }
  tokenizer.raw_tokens = AddedTokenMatcher(std::move(tokens[0]), spellings[0]);
  tokenizer.normalized_tokens = AddedTokenMatcher(std::move(tokens[1]), spellings[1]);
}

// "bos_token" is a string or an object with "content".
std::string read_config_token(const JsonObject& config, const char* field) {
  if (!config.has(field)) return "";
  const Json& value = config.at(field);
  if (value.is_object()) return JsonObject(value, config.path(), field).string("content");
  return config.string(field);
}

// A template is a string, or a list of named ones of which "default" counts.
std::string read_template(const JsonObject& config) {
  if (!config.has("chat_template")) return "";
  const Json& value = config.at("chat_template");
  if (!value.is_array()) return config.string("chat_template");
  for (const Json& entry : value) {
    const JsonObject object(entry, config.path(), "chat_template");
    if (object.string("name") == "default") return object.string("template");
  }
  return "";
}

std::optional<ChatTemplate> load_chat_template(const std::string& model_dir) {
  const std::string template_path = join_path(model_dir, "chat_template.jinja");
  std::string text;
  if (file_exists(template_path)) text = read_text(template_path, kMaxConfigBytes);
  const std::string path = join_path(model_dir, "tokenizer_config.json");
  if (!file_exists(path)) return recognise_chat_template(text, "", "");
  const Json document = read_json(path, kMaxConfigBytes);
  const JsonObject config(document, path);
  const std::string bos = read_config_token(config, "bos_token");
  const std::string eos = read_config_token(config, "eos_token");
  if (config.has("moa_rt_chat_family")) {
    return chat_template_of_family(config.string("moa_rt_chat_family"), bos, eos, path);
  }
  if (text.empty()) text = read_template(config);
  return recognise_chat_template(text, bos, eos);
}

}  // namespace

std::shared_ptr<const Tokenizer::Impl> load_tokenizer(const std::string& model_dir) {
  const std::string path = join_path(model_dir, "tokenizer.json");
  const TokenizerJson file = parse_tokenizer_json(read_text(path, kMaxTokenizerBytes), path);
  const JsonObject root(file.document, path);
  const JsonObject model(root.object("model"), path, "model");
  check_header(root, model);
  check_model(file, path);
  auto added = read_added_tokens(root);
  Vocabulary vocabulary = make_vocabulary(file, added, path);
  auto pre_tokenizer = PreTokenizer::parse(component(root, "pre_tokenizer"), path);
  auto decoder = TokenDecoder::parse(component(root, "decoder"), path);
  MergeTable merges(file.merges, vocabulary, path);
  Bpe bpe(model.value(), std::move(merges), vocabulary, pre_tokenizer.unit(), path);
  auto tokenizer = std::make_shared<Tokenizer::Impl>(std::move(vocabulary), std::move(bpe));
  tokenizer->normalizer = Normalizer::parse(component(root, "normalizer"), path);
  tokenizer->pre_tokenizer = std::move(pre_tokenizer);
  tokenizer->post_processor =
      PostProcessor::parse(component(root, "post_processor"), tokenizer->vocabulary, path);
  tokenizer->decoder = std::move(decoder);
  tokenizer->added = std::move(added);
  add_matchers(*tokenizer);
  tokenizer->chat_template = load_chat_template(model_dir);
  tokenizer->path = path;
  return tokenizer;
}

}  // namespace moa_rt
