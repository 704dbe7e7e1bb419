#include "model/rope_config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string_view>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 1e4;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 21;

constexpr std::array<std::string_view, 4> kCommonKeys = {"type", "rope_type", "rope_theta",
                                                         "partial_rotary_factor"};
constexpr std::array<std::string_view, 1> kLinearKeys = {"factor"};
constexpr std::array<std::string_view, 4> kLlama3Keys = {
    "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"};

[[noreturn]] void unsupported(const JsonObject& rope, const char* item, std::string_view note) {
  throw UnsupportedError(describe({.file = rope.path(), .item = item, .note = note}));
}

// "default" if neither spelling is there.
std::string rope_type(const JsonObject& rope, const char* item) {
  const bool has_old = rope.has("type");
  const bool has_new = rope.has("rope_type");
  if (!has_old && !has_new) return "default";
  const std::string type = rope.string(has_new ? "rope_type" : "type");
  if (has_old && has_new && rope.string("type") != type) {
    unsupported(rope, item,
                "type \"" + escape_name(rope.string("type")) + "\" and rope_type \"" +
                    escape_name(type) + "\" disagree");
  }
  return type;
}

void check_keys(const JsonObject& rope, const char* item, const std::string& type,
                std::span<const std::string_view> own) {
  for (const auto& [key, unused] : rope.value().items()) {
    if (std::ranges::count(kCommonKeys, key) > 0 || std::ranges::count(own, key) > 0) continue;
    unsupported(rope, item, quoted_item("key", key) + " is unknown for type \"" + type + "\"");
  }
}

void read_llama3(const JsonObject& rope, const char* item, RopeConfig& out) {
  out.type = RopeType::kLlama3;
  out.factor = rope.number("factor", 1.0, kMaxFactor);
  out.low_freq_factor = rope.number("low_freq_factor", 1e-3, kMaxFactor);
  out.high_freq_factor = rope.number("high_freq_factor", 1e-3, kMaxFactor);
  out.original_max_position_embeddings =
      rope.integer("original_max_position_embeddings", 1, kMaxContext);
  // The smooth part divides by their difference.
  if (!(out.high_freq_factor > out.low_freq_factor)) {
    throw FormatError(
        describe({.file = rope.path(),
                  .item = item,
                  .field = "high_freq_factor",
                  .got = Json(out.high_freq_factor).dump(),
                  .want = "more than low_freq_factor " + Json(out.low_freq_factor).dump()}));
  }
}

void read_scaling(const JsonObject& rope, const char* item, RopeConfig& out) {
  const std::string type = rope_type(rope, item);
  if (type == "default") {
    check_keys(rope, item, type, {});
  } else if (type == "linear") {
    check_keys(rope, item, type, kLinearKeys);
    out.type = RopeType::kLinear;
    out.factor = rope.number("factor", 1.0, kMaxFactor);
  } else if (type == "llama3") {
    check_keys(rope, item, type, kLlama3Keys);
    read_llama3(rope, item, out);
  } else {
    unsupported(rope, item,
                "rope type \"" + escape_name(type) +
                    "\" is not implemented; implemented: default, linear, llama3");
  }
}

void check_whole_head(const JsonObject& rope, const char* item) {
  if (rope.has("partial_rotary_factor") && rope.number("partial_rotary_factor", 0.0, 1.0) != 1.0) {
    unsupported(rope, item, "partial_rotary_factor: only 1.0 is implemented");
  }
}

}  // namespace

RopeConfig parse_rope_config(const JsonObject& config) {
  const bool has_parameters = config.has("rope_parameters");
  const bool has_scaling = config.has("rope_scaling");
  if (has_parameters && has_scaling && config.at("rope_parameters") != config.at("rope_scaling")) {
    throw MismatchError(describe({.file = config.path(),
                                  .field = "rope_scaling",
                                  .note = "differs from rope_parameters beside it"}));
  }
  check_whole_head(config, "");
  RopeConfig out;
  std::optional<double> theta;
  if (config.has("rope_theta")) theta = config.number("rope_theta", 1.0, kMaxTheta);
  if (has_parameters || has_scaling) {
    const char* item = has_parameters ? "rope_parameters" : "rope_scaling";
    const JsonObject rope(config.at(item), config.path(), item);
    check_whole_head(rope, item);
    read_scaling(rope, item, out);
    if (rope.has("rope_theta")) {
      const double inner = rope.number("rope_theta", 1.0, kMaxTheta);
      if (theta.has_value() && *theta != inner) {
        throw MismatchError(describe({.file = config.path(),
                                      .field = "rope_theta",
                                      .got = Json(*theta).dump(),
                                      .want = Json(inner).dump() + " as in " + item}));
      }
      theta = inner;
    }
  }
  // Configurations of Llama 1 and 2 do not write it; every reader takes 10000.
  out.theta = theta.value_or(10000.0);
  return out;
}

}  // namespace moa_rt
