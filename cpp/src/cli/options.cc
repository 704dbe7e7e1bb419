#include "cli/options.h"

#include <charconv>
#include <string_view>

#include "cli/console.h"
#include "cli/shipped_plans.h"

namespace moa_rt::cli {
namespace {

constexpr std::string_view kAutoPlan = "auto";  // a file of that name is "./auto"

std::pair<std::int64_t, double> parse_logit_bias(const std::string& text) {
  std::pair<std::int64_t, double> bias;
  const char* end = text.data() + text.size();
  const auto id = std::from_chars(text.data(), end, bias.first);
  if (id.ec == std::errc() && id.ptr != end && *id.ptr == '=') {
    const auto value = std::from_chars(id.ptr + 1, end, bias.second);
    if (value.ec == std::errc() && value.ptr == end) return bias;
  }
  throw ArgumentError("--logit-bias: got \"" + text + "\", want ID=VALUE");
}

}  // namespace

void add_engine_flags(CLI::App& app, EngineFlags& flags) {
  EngineOptions& options = flags.options;
  const char* group = "Engine";
  app.add_option("--model", flags.model_dir, "Directory of a converted model")
      ->required()
      ->group(group);
  app.add_option("--plan", flags.plan_path,
                 "Attention plan (JSON); auto: the one that ships for this model")
      ->group(group);
  app.add_option(
         "--density", flags.density,
         "With --plan auto: share of the KV bytes it keeps (0.5). Alone: a uniform plan, every "
         "head keeps this share of the tokens, in (0, 1]")
      ->group(group);
  app.add_flag("--force-plan", options.force_plan,
               "Accept a plan made for another model of the same shape")
      ->group(group);
  app.add_option("--device", options.device, "cpu, cuda or cuda:INDEX")
      ->capture_default_str()
      ->group(group);
  app.add_option("--dtype", options.dtype,
                 "auto (as stored), bfloat16, float32 (CPU) or float16 (GPU)")
      ->capture_default_str()
      ->group(group);
  app.add_option("--threads", options.num_threads, "Threads; 0: one for each available core")
      ->capture_default_str()
      ->group(group);
  app.add_option("--max-batch", options.max_batch, "Sequences that run at the same time")
      ->capture_default_str()
      ->group(group);
  app.add_option("--max-seq-len", options.max_seq_len,
                 "Longest sequence in tokens; 0: the model's own limit")
      ->capture_default_str()
      ->group(group);
  app.add_option("--prefill-chunk", options.prefill_chunk, "Prompt tokens processed in one step")
      ->capture_default_str()
      ->group(group);
  app.add_option("--kv-cache-bytes", options.kv_cache_bytes,
                 "Bound on all KV caches together; 0: what memory allows")
      ->capture_default_str()
      ->group(group);
  app.add_option("--cpu-isa", options.cpu_isa, "auto, portable, avx2, avx512 or avx512_bf16")
      ->capture_default_str()
      ->group(group);
}

EngineOptions engine_options(const EngineFlags& flags) {
  EngineOptions options = flags.options;
  if (flags.plan_path.empty() && !flags.density) return options;
  const bool shipped = flags.plan_path == kAutoPlan;
  if (flags.density && !shipped && !flags.plan_path.empty()) {
    throw ArgumentError("--density: goes with --plan auto or alone, not with a plan file");
  }
  const ModelConfig config = ModelConfig::load(flags.model_dir);
  if (shipped) {
    options.plan = find_shipped_plan(shipped_plan_directory(), config,
                                     flags.density.value_or(kShippedDensity));
    return options;
  }
  if (flags.density) {
    options.plan = AttentionPlan::uniform(config, *flags.density);
    return options;
  }
  options.plan = AttentionPlan::load(flags.plan_path);
  const std::string& made_for = options.plan->fingerprint;
  if (options.force_plan && !made_for.empty() && made_for != config.fingerprint) {
    write_note("moa_rt: warning: " + flags.plan_path +
               ": the plan was made for another model and is used because of --force-plan\n");
  }
  return options;
}

void add_request_flags(CLI::App& app, RequestFlags& flags) {
  RequestOptions& options = flags.options;
  SamplingOptions& sampling = options.sampling;
  const char* group = "Output";
  app.add_option("--max-new-tokens", options.max_new_tokens, "Most tokens to generate")
      ->default_str(std::to_string(*options.max_new_tokens))
      ->group(group);
  app.add_option("--min-new-tokens", options.min_new_tokens, "No stop token before this many")
      ->capture_default_str()
      ->group(group);
  app.add_option("--stop", options.stop, "End before this text; may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  app.add_option("--stop-token", options.stop_token_ids, "End at this token id, likewise")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  app.add_flag("--ignore-eos", options.ignore_eos, "Do not end at the model's own end tokens")
      ->group(group);
  group = "Sampling";
  app.add_option("--temperature", sampling.temperature, "0: always the likeliest token")
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-k", sampling.top_k, "Among the k likeliest; 0: off")
      ->capture_default_str()
      ->group(group);
  app.add_option("--top-p", sampling.top_p, "Among the likeliest with this joint probability")
      ->capture_default_str()
      ->group(group);
  app.add_option("--min-p", sampling.min_p, "Not below this share of the likeliest's probability")
      ->capture_default_str()
      ->group(group);
  app.add_option("--repetition-penalty", sampling.repetition_penalty, "Over prompt and output")
      ->capture_default_str()
      ->group(group);
  app.add_option("--presence-penalty", sampling.presence_penalty, "Over the output")
      ->capture_default_str()
      ->group(group);
  app.add_option("--frequency-penalty", sampling.frequency_penalty, "Over the output")
      ->capture_default_str()
      ->group(group);
  app.add_option("--logit-bias", flags.logit_bias, "ID=VALUE, may be given several times")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  app.add_option("--seed", sampling.seed, "For equal output each time; none: drawn by the system")
      ->group(group);
}

RequestOptions request_options(const RequestFlags& flags) {
  RequestOptions options = flags.options;
  for (const std::string& text : flags.logit_bias) {
    options.sampling.logit_bias.push_back(parse_logit_bias(text));
  }
  return options;
}

void check_text_length(const Engine& engine, const std::string& text) {
  const std::size_t limit = max_text_bytes(engine.options().max_seq_len);
  if (text.size() <= limit) return;
  throw ArgumentError("prompt: got " + std::to_string(text.size()) + " bytes, want at most " +
                      std::to_string(limit) + " for " +
                      std::to_string(engine.options().max_seq_len) + " tokens");
}

}  // namespace moa_rt::cli
