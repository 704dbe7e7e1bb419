// AttentionPlan: one span rule per (layer, KV head), and where the plan comes from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moa_rt/model_config.h"
#include "moa_rt/span.h"
#include "moa_rt/types.h"

namespace moa_rt {

// What a sequence whose token budget lies outside the plan's length range gets.
enum class OutOfRange : std::uint8_t { kDense, kRefuse };

struct PlanDiagnostics {
  std::int64_t clamped_heads =
      0;  // heads whose rule exceeds N somewhere in the range (dense there)
};

class AttentionPlan {
 public:
  static constexpr std::int64_t kSchemaVersion = 1;
  static constexpr std::int64_t kDefaultSink = 64;
  static constexpr std::int64_t kDefaultRounding = 64;

  // Every head keeps everything.
  static AttentionPlan dense(const ModelConfig& config);
  // Every head keeps `density` * N tokens, 0 < density <= 1.
  static AttentionPlan uniform(const ModelConfig& config, double density);
  // rules[layer][kv_head]. Throws ArgumentError for ragged or empty rules or a rule out of bounds.
  static AttentionPlan from_rules(std::vector<std::vector<SpanRule>> rules,
                                  std::int64_t sink_size = kDefaultSink,
                                  std::int64_t rounding = kDefaultRounding,
                                  std::int64_t min_length = 1,
                                  std::int64_t max_length = kMaxTokens);

  // Schema v1, at most 16 MiB. Throws IoError, FormatError, UnsupportedError for a later version,
  // or MismatchError for another granularity or layers of different width.
  static AttentionPlan load(const std::string& path);
  static AttentionPlan parse(const std::string& text, const std::string& path = "<string>");

  // Equal content gives equal bytes: sorted keys, shortest decimals, no time stamp.
  std::string to_json() const;
  // Validates, writes a temporary file beside `path`, syncs and renames. Throws IoError,
  // FormatError.
  void save(const std::string& path) const;

  // Throws MismatchError if the plan's shape, or, unless `force`, its fingerprint is not the
  // model's.
  void check_model(const ModelConfig& config, bool force = false) const;
  // Every rule gives at least one token at both ends of the length range (E6). Throws FormatError.
  PlanDiagnostics validate() const;

  std::int64_t num_layers() const { return static_cast<std::int64_t>(rules_.size()); }
  std::int64_t num_kv_heads() const {
    return rules_.empty() ? 0 : static_cast<std::int64_t>(rules_[0].size());
  }
  const std::vector<std::vector<SpanRule>>& rules() const { return rules_; }
  std::int64_t sink_size() const { return sink_size_; }
  std::int64_t rounding() const { return rounding_; }
  std::int64_t min_length() const { return min_length_; }
  std::int64_t max_length() const { return max_length_; }

  // Span of one head for a sequence with a budget of n tokens, the length policy applied. Throws
  // ArgumentError if n is not in 1..kMaxTokens or outside the range of a plan that refuses.
  HeadSpan head_span(std::int64_t layer, std::int64_t kv_head, std::int64_t n) const;
  // The same for all heads: spans(n)[layer][kv_head].
  std::vector<std::vector<HeadSpan>> spans(std::int64_t n) const;
  // KV bytes of one sequence with a budget of n tokens: sum of spans * 2 * head_dim *
  // size_of(dtype).
  std::int64_t cache_bytes(std::int64_t n, std::int64_t head_dim, DType dtype) const;
  // The budget of at most `most` tokens whose cache is the largest: `most` itself, or the longest
  // below the range of a plan that is dense there.
  std::int64_t widest_length(std::int64_t most) const;
  // Kept KV bytes over the KV bytes of a dense plan at n (a memory figure).
  double density(std::int64_t n) const;

  bool operator==(const AttentionPlan&) const = default;

  OutOfRange out_of_range = OutOfRange::kDense;
  std::string fingerprint;  // model it was made for; empty: any of the same shape
  std::string model_name;   // for people only
  std::map<std::string, std::string> provenance;  // how it was made
  std::map<std::string, double> quality;          // measured, for example "passkey@4096"
  // Values of keys that start with "x_", as JSON text: kept, never read.
  std::map<std::string, std::string> extensions;

 private:
  std::vector<std::vector<SpanRule>> rules_;
  std::int64_t sink_size_ = kDefaultSink;
  std::int64_t rounding_ = kDefaultRounding;
  std::int64_t min_length_ = 1;
  std::int64_t max_length_ = kMaxTokens;
};

// beta in [0, 1] as fixed point, to nearest. Throws ArgumentError for NaN, -0.0 or out of range.
std::int64_t beta_to_q32(double beta);
// Shortest decimal that beta_to_q32 maps back to the same number.
std::string beta_to_string(std::int64_t beta_q32);

}  // namespace moa_rt
