// moa-rt inspect: what a model and a plan will need, without reading a weight.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/heat_map.h"
#include "cli/options.h"

namespace moa_rt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct InspectFlags {
  EngineFlags engine;
  std::int64_t sequences = 1;
  bool verify = false;
  bool json = false;
};

// What a token budget of `length` means: kept share of the dense KV bytes, and bytes.
struct LengthCost {
  std::int64_t length = 0;
  double density = 0.0;
  std::int64_t bytes = 0;
  std::int64_t dense_bytes = 0;
};

struct Inspection {
  ModelConfig config;
  AttentionPlan plan;
  std::int64_t length = 0;  // token budget of each sequence
  std::int64_t sequences = 0;
  std::vector<std::vector<HeadSpan>> spans;
  MemoryPrediction memory;
  std::vector<LengthCost> lengths;
};

std::int64_t slots(const AttentionPlan& plan, std::int64_t n) {
  std::int64_t sum = 0;
  for (const auto& layer : plan.spans(n)) {
    for (const HeadSpan& head : layer) sum += head.span();
  }
  return sum;
}

// What the plan costs at powers of two that plan and model allow, and at the length asked for.
std::vector<LengthCost> length_costs(const Inspection& result) {
  constexpr std::int64_t kLeast = 512;
  const AttentionPlan& plan = result.plan;
  const std::int64_t most = std::min(plan.max_length(), result.config.max_position_embeddings);
  std::set<std::int64_t> lengths{result.length};
  for (std::int64_t n = kLeast; n <= most; n *= 2) {
    if (n >= plan.min_length()) lengths.insert(n);
  }
  const AttentionPlan dense = AttentionPlan::dense(result.config);
  const std::int64_t slot_bytes = result.memory.kv_per_sequence / slots(plan, result.length);
  std::vector<LengthCost> costs;
  for (const std::int64_t n : lengths) {
    costs.push_back(
        {n, plan.density(n), slots(plan, n) * slot_bytes, slots(dense, n) * slot_bytes});
  }
  return costs;
}

struct SpanSummary {
  std::int64_t smallest = 0;
  std::int64_t largest = 0;
  std::int64_t sum = 0;
  std::int64_t dense_heads = 0;
};

SpanSummary summarize(const std::vector<HeadSpan>& heads, std::int64_t length) {
  SpanSummary summary{heads[0].span(), heads[0].span(), 0, 0};
  for (const HeadSpan& head : heads) {
    summary.smallest = std::min(summary.smallest, head.span());
    summary.largest = std::max(summary.largest, head.span());
    summary.sum += head.span();
    if (head.span() >= length) ++summary.dense_heads;
  }
  return summary;
}

Inspection inspect(const InspectFlags& flags) {
  if (flags.sequences < 1 || flags.sequences > kMaxTokens) {
    throw ArgumentError("--sequences: got " + std::to_string(flags.sequences) + ", want 1.." +
                        std::to_string(kMaxTokens));
  }
  EngineOptions options = engine_options(flags.engine);
  options.max_batch = std::max(options.max_batch, flags.sequences);
  Inspection result;
  result.config = ModelConfig::load(flags.engine.model_dir);
  if (options.max_seq_len == 0) options.max_seq_len = result.config.max_position_embeddings;
  result.plan = options.plan.value_or(AttentionPlan::dense(result.config));
  result.plan.check_model(result.config, options.force_plan);
  result.length = options.max_seq_len;
  result.sequences = flags.sequences;
  result.memory = predict_memory(flags.engine.model_dir, options);
  result.spans = result.plan.spans(result.length);
  result.lengths = length_costs(result);
  return result;
}

Json config_json(const ModelConfig& config) {
  return {{"model_type", config.model_type},
          {"num_hidden_layers", config.num_hidden_layers},
          {"hidden_size", config.hidden_size},
          {"intermediate_size", config.intermediate_size},
          {"num_attention_heads", config.num_attention_heads},
          {"num_key_value_heads", config.num_key_value_heads},
          {"head_dim", config.head_dim},
          {"vocab_size", config.vocab_size},
          {"max_position_embeddings", config.max_position_embeddings},
          {"tie_word_embeddings", config.tie_word_embeddings},
          {"torch_dtype", config.torch_dtype ? Json(dtype_name(*config.torch_dtype)) : Json()},
          {"fingerprint", config.fingerprint}};
}

Json plan_json(const Inspection& result) {
  const AttentionPlan& plan = result.plan;
  return {{"sink_size", plan.sink_size()},
          {"rounding", plan.rounding()},
          {"min_length", plan.min_length()},
          {"max_length", plan.max_length()},
          {"out_of_range", plan.out_of_range == OutOfRange::kDense ? "dense" : "refuse"},
          {"fingerprint", plan.fingerprint},
          {"density", plan.density(result.length)},
          {"quality", plan.quality}};
}

Json memory_json(const Inspection& result) {
  const MemoryPrediction& memory = result.memory;
  return {{"weights", memory.weights},
          {"kv_cache_per_sequence", memory.kv_per_sequence},
          {"dense_kv_cache_per_sequence", memory.dense_kv_per_sequence},
          {"scratch", memory.scratch},
          {"runtime", memory.runtime},
          {"total", memory.total(result.sequences)}};
}

Json layers_json(const Inspection& result) {
  Json layers = Json::array();
  for (std::size_t layer = 0; layer < result.spans.size(); ++layer) {
    Json spans = Json::array();
    for (const HeadSpan& head : result.spans[layer]) spans.push_back(head.span());
    layers.push_back({{"kv_cache_bytes", result.memory.kv_per_layer[layer]}, {"spans", spans}});
  }
  return layers;
}

Json lengths_json(const Inspection& result) {
  Json lengths = Json::array();
  for (const LengthCost& cost : result.lengths) {
    lengths.push_back({{"length", cost.length},
                       {"density", cost.density},
                       {"kv_cache_bytes", cost.bytes},
                       {"dense_kv_cache_bytes", cost.dense_bytes}});
  }
  return lengths;
}

std::string line(const char* name, long long bytes) {
  char text[96];
  std::snprintf(text, sizeof text, "  %-24s %16lld\n", name, bytes);
  return text;
}

std::string config_text(const ModelConfig& config) {
  return "model: " + config.model_type + ", " + std::to_string(config.num_hidden_layers) +
         " layers, " + std::to_string(config.num_attention_heads) + " heads, " +
         std::to_string(config.num_key_value_heads) + " KV heads, head_dim " +
         std::to_string(config.head_dim) + ", vocabulary " + std::to_string(config.vocab_size) +
         "\nfingerprint: " + (config.fingerprint.empty() ? "none" : config.fingerprint) + "\n";
}

std::string plan_text(const Inspection& result) {
  char text[256];
  std::snprintf(text, sizeof text,
                "plan: sink %lld, rounding %lld, lengths %lld..%lld, density %.4f at %lld tokens\n",
                static_cast<long long>(result.plan.sink_size()),
                static_cast<long long>(result.plan.rounding()),
                static_cast<long long>(result.plan.min_length()),
                static_cast<long long>(result.plan.max_length()),
                result.plan.density(result.length), static_cast<long long>(result.length));
  return text;
}

std::string layers_text(const Inspection& result) {
  const bool colour = output_is_terminal();
  std::string text = heat_legend(result.length, colour) +
                     "layer   KV bytes  spans: least   mean   most  dense heads\n";
  for (std::size_t layer = 0; layer < result.spans.size(); ++layer) {
    const SpanSummary spans = summarize(result.spans[layer], result.length);
    const auto heads = static_cast<std::int64_t>(result.spans[layer].size());
    char row[128];
    std::snprintf(row, sizeof row, "%5zu %10lld %13lld %6lld %6lld %6lld/%-4lld ", layer,
                  static_cast<long long>(result.memory.kv_per_layer[layer]),
                  static_cast<long long>(spans.smallest), static_cast<long long>(spans.sum / heads),
                  static_cast<long long>(spans.largest), static_cast<long long>(spans.dense_heads),
                  static_cast<long long>(heads));
    text += row + heat_row(result.spans[layer], result.length, colour) + "\n";
  }
  return text;
}

std::string lengths_text(const Inspection& result) {
  std::string text = "tokens   density     KV MB  dense MB\n";
  for (const LengthCost& cost : result.lengths) {
    char row[96];
    std::snprintf(row, sizeof row, "%6lld %9.4f %9.1f %9.1f\n", static_cast<long long>(cost.length),
                  cost.density, static_cast<double>(cost.bytes) / 1e6,
                  static_cast<double>(cost.dense_bytes) / 1e6);
    text += row;
  }
  return text;
}

std::string memory_text(const Inspection& result) {
  const MemoryPrediction& memory = result.memory;
  return "bytes with " + std::to_string(result.sequences) + " sequence(s) of " +
         std::to_string(result.length) + " tokens:\n" + line("weights", memory.weights) +
         line("KV cache per sequence", memory.kv_per_sequence) +
         line("(dense would be)", memory.dense_kv_per_sequence) + line("scratch", memory.scratch) +
         line("runtime", memory.runtime) + line("total", memory.total(result.sequences));
}

int run_inspect(const InspectFlags& flags) {
  const Inspection result = inspect(flags);
  if (flags.verify) verify_model(flags.engine.model_dir);
  if (flags.json) {
    Json json = {{"model", flags.engine.model_dir}, {"config", config_json(result.config)},
                 {"length", result.length},         {"sequences", result.sequences},
                 {"plan", plan_json(result)},       {"layers", layers_json(result)},
                 {"lengths", lengths_json(result)}, {"bytes", memory_json(result)}};
    if (flags.verify) json["verified"] = true;
    write_json(json);
  } else {
    write_out(config_text(result.config) + plan_text(result) + layers_text(result) +
              lengths_text(result) + memory_text(result));
    if (flags.verify) write_out("every file agrees with the manifest\n");
  }
  return 0;
}

}  // namespace

Command add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show config, plan and predicted bytes; reads no weight");
  command->add_option("--length", flags->engine.options.max_seq_len,
                      "Token budget of each sequence; 0: the model's own limit");
  command->add_option("--sequences", flags->sequences, "Sequences at the same time")
      ->capture_default_str();
  command->add_flag("--verify", flags->verify, "Compare every file with its hash in the manifest");
  command->add_flag("--json", flags->json, "Print one JSON object");
  add_engine_flags(*command, flags->engine);
  return {command, [flags] { return run_inspect(*flags); }};
}

}  // namespace moa_rt::cli
