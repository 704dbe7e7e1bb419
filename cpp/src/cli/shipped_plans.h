// Plans that ship with the program: one JSON file for each model and density, found by fingerprint.
#pragma once

#include <filesystem>

#include "moa_rt/model_config.h"
#include "moa_rt/plan.h"

namespace moa_rt::cli {

constexpr double kShippedDensity = 0.5;  // where none is asked for

// <directory of this program>/../share/moa_rt/plans: where an installation, a wheel and a build
// tree all have them.
std::filesystem::path shipped_plan_directory();

// The plan of this very model whose provenance has the density. Throws ArgumentError with a list of
// what there is, and FormatError for a broken file.
AttentionPlan find_shipped_plan(const std::filesystem::path& directory, const ModelConfig& config,
                                double density);

}  // namespace moa_rt::cli
