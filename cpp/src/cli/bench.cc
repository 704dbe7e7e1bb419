// moa-rt bench: how fast this engine reads prompts and writes tokens on this machine.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/stream.h"

namespace moa_rt::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchFlags {
  EngineFlags engine;
  std::int64_t prompt_tokens = 512;
  std::int64_t new_tokens = 64;
  std::int64_t batch = 1;
  std::int64_t repeat = 5;
  std::int64_t warmup = 1;
  bool json = false;
};

struct Rates {
  double prefill = 0.0;  // prompt tokens per second, all sequences together
  double decode = 0.0;   // new tokens per second, likewise
  double read = 0.0;     // GB/s of weights and KV read by decode
};

void check(const char* flag, std::int64_t value, std::int64_t min, std::int64_t max) {
  if (value >= min && value <= max) return;
  throw ArgumentError(std::string(flag) + ": got " + std::to_string(value) + ", want " +
                      std::to_string(min) + ".." + std::to_string(max));
}

void check(const BenchFlags& flags) {
  check("--prompt-tokens", flags.prompt_tokens, 1, kMaxTokens);
  check("--new-tokens", flags.new_tokens, 2, kMaxTokens);  // the first token comes from prefill
  check("--batch", flags.batch, 1, 4096);
  check("--repeat", flags.repeat, 1, 1000);
  check("--warmup", flags.warmup, 0, 1000);
}

// Random ids: text that repeats itself would be no faster or slower, but an even spread over the
// embedding's rows is the honest case.
std::vector<std::vector<std::int32_t>> random_prompts(const BenchFlags& flags, std::int64_t vocab) {
  std::mt19937_64 random(1);
  std::uniform_int_distribution<std::int32_t> id(0, static_cast<std::int32_t>(vocab - 1));
  std::vector<std::vector<std::int32_t>> prompts(static_cast<std::size_t>(flags.batch));
  for (auto& prompt : prompts) {
    prompt.resize(static_cast<std::size_t>(flags.prompt_tokens));
    for (std::int32_t& token : prompt) token = id(random);
  }
  return prompts;
}

Rates measure(Engine& engine, const std::vector<std::vector<std::int32_t>>& prompts,
              const RequestOptions& request) {
  const EngineStats before = engine.stats();
  for (const Completion& completion : engine.generate(prompts, request)) {
    if (completion.finish_reason != FinishReason::kError) continue;
    throw Error(completion.error_code.value_or(ErrorCode::kInternal), completion.error);
  }
  const EngineStats after = engine.stats();
  const double decode_seconds = after.decode_seconds - before.decode_seconds;
  return {
      rate(static_cast<double>(after.prefill_tokens - before.prefill_tokens),
           after.prefill_seconds - before.prefill_seconds),
      rate(static_cast<double>(after.decode_tokens - before.decode_tokens), decode_seconds),
      rate(static_cast<double>(after.decode_bytes - before.decode_bytes) * 1e-9, decode_seconds)};
}

// Each column on its own, between the two middle runs where their count is even.
struct Spread {
  Rates median;
  Rates best;
};

Spread spread(const std::vector<Rates>& runs) {
  Spread result;
  std::vector<double> values;
  for (double Rates::*column : {&Rates::prefill, &Rates::decode, &Rates::read}) {
    values.clear();
    for (const Rates& run : runs) values.push_back(run.*column);
    std::sort(values.begin(), values.end());
    const std::size_t middle = values.size() / 2;
    const double below = values[values.size() % 2 == 0 ? middle - 1 : middle];
    result.median.*column = (below + values[middle]) / 2;
    result.best.*column = values.back();
  }
  return result;
}

Json rates_json(const Rates& rates) {
  return {{"prefill_tokens_per_second", rates.prefill},
          {"decode_tokens_per_second", rates.decode},
          {"decode_gigabytes_per_second", rates.read}};
}

std::string rates_line(const char* name, const Rates& rates) {
  char line[128];
  std::snprintf(line, sizeof line, "%-8s %12.1f %12.1f %12.2f\n", name, rates.prefill, rates.decode,
                rates.read);
  return line;
}

void report_json(const BenchFlags& flags, const Engine& engine, const std::vector<Rates>& runs) {
  const EngineOptions& options = engine.options();
  Json json = {{"model", flags.engine.model_dir},
               {"device", options.device},
               {"dtype", options.dtype},
               {"cpu_isa", options.cpu_isa},
               {"num_threads", options.num_threads},
               {"prefill_chunk", options.prefill_chunk},
               {"prompt_tokens", flags.prompt_tokens},
               {"new_tokens", flags.new_tokens},
               {"batch", flags.batch},
               {"plan_density", engine.plan().density(flags.prompt_tokens + flags.new_tokens)},
               {"memory", memory_json(engine.memory())},
               {"runs", Json::array()}};
  for (const Rates& run : runs) json["runs"].push_back(rates_json(run));
  const Spread rates = spread(runs);
  json["median"] = rates_json(rates.median);
  json["best"] = rates_json(rates.best);
  write_json(json);
}

void report_text(const BenchFlags& flags, const Engine& engine, const std::vector<Rates>& runs) {
  const EngineOptions& options = engine.options();
  write_out("device " + options.device + " (" + options.cpu_isa + "), " + options.dtype + ", " +
            std::to_string(options.num_threads) + " threads, batch " + std::to_string(flags.batch) +
            ", " + std::to_string(flags.prompt_tokens) + " + " + std::to_string(flags.new_tokens) +
            " tokens, " + std::to_string(runs.size()) + " runs\n");
  write_out("KV cache " + std::to_string(engine.memory().kv_cache_peak) + " bytes\n");
  write_out("         prefill tok/s decode tok/s  decode GB/s\n");
  const Spread rates = spread(runs);
  write_out(rates_line("median", rates.median) + rates_line("best", rates.best));
}

int run_bench(const BenchFlags& flags) {
  check(flags);
  EngineOptions options = engine_options(flags.engine);
  options.max_batch = std::max(options.max_batch, flags.batch);
  if (options.max_seq_len == 0) options.max_seq_len = flags.prompt_tokens + flags.new_tokens;
  Engine engine(flags.engine.model_dir, options);
  RequestOptions request;
  request.max_new_tokens = flags.new_tokens;
  request.ignore_eos = true;

  arm_interrupts();
  engine.set_interrupt([] { return interrupts() > 0; });
  const auto prompts = random_prompts(flags, engine.config().vocab_size);
  std::vector<Rates> runs;
  try {
    for (std::int64_t run = -flags.warmup; run < flags.repeat; ++run) {
      const Rates rates = measure(engine, prompts, request);
      if (run >= 0) runs.push_back(rates);
    }
  } catch (const StateError&) {
    if (interrupts() > 0) return kInterruptedStatus;
    throw;
  }
  flags.json ? report_json(flags, engine, runs) : report_text(flags, engine, runs);
  return 0;
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand("bench", "Measure prefill and decode on random tokens");
  command->add_option("--prompt-tokens", flags->prompt_tokens, "Tokens of each prompt")
      ->capture_default_str();
  command->add_option("--new-tokens", flags->new_tokens, "Tokens generated after each prompt")
      ->capture_default_str();
  command->add_option("--batch", flags->batch, "Sequences at the same time")->capture_default_str();
  command->add_option("--repeat", flags->repeat, "Measured runs")->capture_default_str();
  command->add_option("--warmup", flags->warmup, "Runs before them")->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object with every run");
  add_engine_flags(*command, flags->engine);
  return {command, [flags] { return run_bench(*flags); }};
}

}  // namespace moa_rt::cli
