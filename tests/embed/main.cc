// Generates four tokens with the model in the directory given, dense and with a plan of half
// density, and prints their ids, one line for each plan.
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "moa_rt/engine.h"

namespace {

bool print_four_tokens(const std::string& model_dir, std::optional<moa_rt::AttentionPlan> plan) {
  moa_rt::EngineOptions options;
  options.plan = std::move(plan);
  options.max_seq_len = 64;
  moa_rt::Engine engine(model_dir, options);

  moa_rt::RequestOptions request;
  request.max_new_tokens = 4;
  request.ignore_eos = true;
  const std::vector<std::vector<std::int32_t>> prompts = {{1, 2, 3}};
  const moa_rt::Completion completion = engine.generate(prompts, request).at(0);
  for (const std::int32_t token : completion.token_ids) std::printf("%d ", token);
  std::printf("%s\n", moa_rt::finish_reason_name(completion.finish_reason));
  return completion.token_ids.size() == 4;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: embed MODEL_DIR\n");
    return 2;
  }
  try {
    const moa_rt::ModelConfig config = moa_rt::ModelConfig::load(argv[1]);
    const bool dense = print_four_tokens(argv[1], std::nullopt);
    const bool half = print_four_tokens(argv[1], moa_rt::AttentionPlan::uniform(config, 0.5));
    return dense && half ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
