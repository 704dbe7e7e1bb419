// Schema v1 of a plan, read and written.
#include <cmath>
#include <limits>
#include <utility>

#include "core/json.h"
#include "core/message.h"
#include "io/file.h"
#include "moa_rt/error.h"
#include "moa_rt/plan.h"
#include "plan/decimal.h"

namespace moa_rt {
namespace {

constexpr JsonLimits kLimits{.max_bytes = std::size_t{16} << 20, .max_depth = 6};
constexpr std::string_view kExtensionPrefix = "x_";

[[noreturn]] void fail(const std::string& path, const std::string& item, const Json& got,
                       const std::string& want) {
  const std::string text = got.dump(-1, ' ', false, Json::error_handler_t::replace);
  throw FormatError(
      describe({.file = path, .item = item, .got = escape_name(text.substr(0, 80)), .want = want}));
}

std::int64_t read_integer(const Json& value, const std::string& path, const std::string& item) {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool exact = value.is_number_integer() &&
                     !(value.is_number_unsigned() && value.get<std::uint64_t>() > kMax);
  if (!exact) fail(path, item, value, "an integer number of tokens");
  return value.get<std::int64_t>();
}

void check_version(const JsonObject& root) {
  if (!root.has("version")) {
    throw FormatError(describe({.file = root.path(),
                                .field = "version",
                                .got = "nothing",
                                .want = std::to_string(AttentionPlan::kSchemaVersion),
                                .note = "a published plan without one must be imported first: "
                                        "moa-tools plan import"}));
  }
  const std::int64_t version = root.integer("version", 1, std::numeric_limits<std::int64_t>::max());
  if (version == AttentionPlan::kSchemaVersion) return;
  throw UnsupportedError(
      describe({.file = root.path(),
                .note = "plan version " + std::to_string(version) + ", this build reads " +
                        std::to_string(AttentionPlan::kSchemaVersion)}));
}

// No guessing by shape: a plan says what one rule is for (E3).
void check_granularity(const JsonObject& root) {
  const std::string granularity = root.string("granularity");
  if (granularity == "kv_head") return;
  throw MismatchError(describe({.file = root.path(),
                                .field = "granularity",
                                .got = "\"" + escape_name(granularity) + "\"",
                                .want = "\"kv_head\""}));
}

OutOfRange read_out_of_range(const JsonObject& root) {
  const std::string policy = root.string("out_of_range");
  if (policy == "dense") return OutOfRange::kDense;
  if (policy == "refuse") return OutOfRange::kRefuse;
  fail(root.path(), "out_of_range", root.at("out_of_range"), "\"dense\" or \"refuse\"");
}

SpanRule read_rule(const Json& entry, const std::string& path, const std::string& item) {
  if (!entry.is_array() || entry.size() < 2 || entry.size() > 3) {
    fail(path, item, entry, "[alpha, beta] or [alpha, beta, max_span]");
  }
  SpanRule rule;
  rule.alpha = read_integer(entry[0], path, item + ": alpha");
  const Json& beta = entry[1];
  const double value = beta.is_number() ? beta.get<double>() : -1.0;
  if (!(value >= 0.0 && value <= 1.0) || std::signbit(value)) {
    fail(path, item + ": beta", beta, "a number in 0..1, not -0.0");
  }
  rule.beta_q32 = beta_to_q32(value);
  if (entry.size() == 3) {
    rule.max_span = read_integer(entry[2], path, item + ": max_span");
    if (rule.max_span == 0)
      fail(path, item + ": max_span", entry[2], "a bound, or no third number");
  }
  return rule;
}

std::vector<std::vector<SpanRule>> read_rules(const JsonObject& root) {
  const Json& layers = root.array("rules");
  std::vector<std::vector<SpanRule>> rules;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const std::string item = "layer " + std::to_string(layer);
    const Json& heads = layers[layer];
    if (!heads.is_array()) fail(root.path(), item, heads, "an array of rules");
    if (layer > 0 && heads.size() != rules[0].size()) {
      throw MismatchError(describe({.file = root.path(),
                                    .item = item,
                                    .field = "KV heads",
                                    .got = std::to_string(heads.size()),
                                    .want = std::to_string(rules[0].size()) + " as in layer 0"}));
    }
    std::vector<SpanRule>& row = rules.emplace_back();
    row.reserve(heads.size());
    for (std::size_t head = 0; head < heads.size(); ++head) {
      row.push_back(
          read_rule(heads[head], root.path(), item + ", KV head " + std::to_string(head)));
    }
  }
  return rules;
}

std::map<std::string, std::string> read_strings(const JsonObject& root, const char* field) {
  std::map<std::string, std::string> result;
  if (!root.contains(field)) return result;
  for (const auto& [key, value] : root.object(field).items()) {
    const std::string item = std::string(field) + ": " + quoted_item("key", key);
    if (!value.is_string()) fail(root.path(), item, value, "a string");
    result[key] = value.get<std::string>();
  }
  return result;
}

std::map<std::string, double> read_numbers(const JsonObject& root, const char* field) {
  std::map<std::string, double> result;
  if (!root.contains(field)) return result;
  for (const auto& [key, value] : root.object(field).items()) {
    const std::string item = std::string(field) + ": " + quoted_item("key", key);
    if (!value.is_number()) fail(root.path(), item, value, "a number");
    result[key] = value.get<double>();
  }
  return result;
}

// Builds the plan from the parts that have bounds. What is a bad argument to from_rules is a broken
// format here.
AttentionPlan build(const JsonObject& root) {
  const Json& range = root.array("length_range");
  if (range.size() != 2) fail(root.path(), "length_range", range, "[min, max]");
  const std::int64_t min_length = read_integer(range[0], root.path(), "length_range");
  const std::int64_t max_length = read_integer(range[1], root.path(), "length_range");
  const std::int64_t sink = root.integer("sink_size", 0, kMaxTokens);
  const std::int64_t rounding = root.integer("rounding", 1, kMaxTokens);
  auto rules = read_rules(root);
  try {
    AttentionPlan plan =
        AttentionPlan::from_rules(std::move(rules), sink, rounding, min_length, max_length);
    plan.validate();
    return plan;
  } catch (const Error& error) {
    throw FormatError(describe({.file = root.path(), .note = error.what()}));
  }
}

void read_model(const JsonObject& root, AttentionPlan& plan) {
  if (!root.contains("model")) return;
  const JsonObject model(root.object("model"), root.path(), "model");
  model.check_keys({"name", "fingerprint"});
  if (model.contains("name")) plan.model_name = model.string("name");
  if (model.contains("fingerprint")) plan.fingerprint = model.string("fingerprint");
}

std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw ArgumentError(describe(
        {.item = "plan", .got = "\"" + escape_name(text) + "\"", .want = "text in UTF-8"}));
  }
}

std::string strings_text(const std::map<std::string, std::string>& values) {
  std::string out = "{";
  for (const auto& [key, value] : values) {
    if (out.size() > 1) out += ", ";
    out += quoted(key) + ": " + quoted(value);
  }
  return out + "}";
}

std::string numbers_text(const std::map<std::string, double>& values) {
  std::string out = "{";
  for (const auto& [key, value] : values) {
    if (!std::isfinite(value)) {
      throw ArgumentError(describe({.item = "plan: quality",
                                    .field = quoted_item("key", key),
                                    .got = decimal(value),
                                    .want = "a finite number"}));
    }
    if (out.size() > 1) out += ", ";
    out += quoted(key) + ": " + decimal(value == 0.0 ? 0.0 : value);  // -0 equals 0
  }
  return out + "}";
}

std::string rule_text(const SpanRule& rule) {
  std::string out = "[";
  out += std::to_string(rule.alpha);
  out += ", ";
  out += beta_to_string(rule.beta_q32);
  if (rule.max_span > 0) out += ", " + std::to_string(rule.max_span);
  return out + "]";
}

// One layer a line.
std::string rules_text(const std::vector<std::vector<SpanRule>>& rules) {
  std::string out = "[";
  for (std::size_t layer = 0; layer < rules.size(); ++layer) {
    out += layer == 0 ? "\n    [" : ",\n    [";
    for (std::size_t head = 0; head < rules[layer].size(); ++head) {
      if (head > 0) out += ", ";
      out += rule_text(rules[layer][head]);
    }
    out += "]";
  }
  return out + "\n  ]";
}

// Sorted keys and one spelling, so that equal values give equal bytes.
std::string canonical_extension(const std::string& key, const std::string& text) {
  if (!key.starts_with(kExtensionPrefix)) {
    throw ArgumentError(describe({.item = "plan: extensions",
                                  .field = quoted_item("key", key),
                                  .want = "a name that starts with x_"}));
  }
  try {
    const Json value = parse_json(text, "plan: extensions", {.max_depth = kLimits.max_depth - 1});
    return nlohmann::json(value).dump();
  } catch (const FormatError& error) {
    throw ArgumentError(error.what());
  }
}

}  // namespace

AttentionPlan AttentionPlan::load(const std::string& path) {
  return parse(read_text(path, static_cast<std::int64_t>(kLimits.max_bytes)), path);
}

AttentionPlan AttentionPlan::parse(const std::string& text, const std::string& path) {
  const Json document = parse_json(text, path, kLimits);
  const JsonObject root(document, path);
  check_version(root);  // first: a later version may have other fields
  root.check_keys({"version", "granularity", "sink_size", "rounding", "length_range",
                   "out_of_range", "model", "provenance", "quality", "rules"});
  check_granularity(root);
  AttentionPlan plan = build(root);
  plan.out_of_range = read_out_of_range(root);
  read_model(root, plan);
  plan.provenance = read_strings(root, "provenance");
  plan.quality = read_numbers(root, "quality");
  for (const auto& [key, value] : document.items()) {
    if (key.starts_with(kExtensionPrefix)) plan.extensions[key] = nlohmann::json(value).dump();
  }
  return plan;
}

std::string AttentionPlan::to_json() const {
  std::map<std::string, std::string> fields;
  fields["granularity"] = "\"kv_head\"";
  fields["length_range"] =
      "[" + std::to_string(min_length_) + ", " + std::to_string(max_length_) + "]";
  fields["model"] = strings_text({{"fingerprint", fingerprint}, {"name", model_name}});
  fields["out_of_range"] = out_of_range == OutOfRange::kDense ? "\"dense\"" : "\"refuse\"";
  fields["provenance"] = strings_text(provenance);
  fields["quality"] = numbers_text(quality);
  fields["rounding"] = std::to_string(rounding_);
  fields["rules"] = rules_text(rules_);
  fields["sink_size"] = std::to_string(sink_size_);
  fields["version"] = std::to_string(kSchemaVersion);
  for (const auto& [key, text] : extensions) fields[key] = canonical_extension(key, text);
  std::string out = "{";
  for (const auto& [key, text] : fields) {
    out += out.size() > 1 ? ",\n  " : "\n  ";
    out += quoted(key) + ": " + text;
  }
  return out + "\n}\n";
}

void AttentionPlan::save(const std::string& path) const {
  validate();  // never write what load() would refuse
  write_text_atomically(path, to_json());
}

}  // namespace moa_rt
