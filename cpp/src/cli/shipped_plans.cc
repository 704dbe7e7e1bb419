#include "cli/shipped_plans.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "moa_rt/error.h"

namespace moa_rt::cli {
namespace {

// Densities this close are the same: 0.33 asks for a plan of 1/3.
constexpr double kTolerance = 0.005;

struct Shipped {
  AttentionPlan plan;
  double density = 0;
};

std::string short_number(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value, std::chars_format::general, 6);
  return std::string(text, end.ptr);
}

Shipped read_shipped(const std::filesystem::path& path) {
  Shipped shipped{AttentionPlan::load(path.string())};
  const auto found = shipped.plan.provenance.find("density");
  const std::string text = found == shipped.plan.provenance.end() ? "" : found->second;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, shipped.density);
  const bool number = parsed.ec == std::errc() && parsed.ptr == end;
  if (!number || !(shipped.density > 0 && shipped.density <= 1) ||
      shipped.plan.fingerprint.empty()) {
    throw FormatError(path.string() +
                      ": a shipped plan needs the model's fingerprint and provenance density in "
                      "(0, 1]: got \"" +
                      shipped.plan.fingerprint.substr(0, 16) + "\" and \"" + text.substr(0, 20) +
                      "\"");
  }
  return shipped;
}

std::vector<Shipped> read_all(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  std::error_code none;  // no directory: no plan
  for (const auto& entry : std::filesystem::directory_iterator(directory, none)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Shipped> plans;
  plans.reserve(paths.size());
  for (const auto& path : paths) plans.push_back(read_shipped(path));
  std::stable_sort(plans.begin(), plans.end(),
                   [](const Shipped& a, const Shipped& b) { return a.density < b.density; });
  return plans;
}

}  // namespace

std::filesystem::path shipped_plan_directory() {
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) {
    throw IoError("/proc/self/exe: " + error.message(), error.value(), "/proc/self/exe");
  }
  return program.parent_path().parent_path() / "share" / "moa_rt" / "plans";
}

AttentionPlan find_shipped_plan(const std::filesystem::path& directory, const ModelConfig& config,
                                double density) {
  if (!(density > 0 && density <= 1)) {
    throw ArgumentError("--density: got " + short_number(density) + ", want in (0, 1]");
  }
  std::set<std::string> models;
  std::string densities, own_name;
  for (Shipped& shipped : read_all(directory)) {
    models.insert(shipped.plan.model_name);
    if (shipped.plan.fingerprint != config.fingerprint) continue;
    if (std::abs(shipped.density - density) <= kTolerance) return std::move(shipped.plan);
    own_name = shipped.plan.model_name;
    densities += (densities.empty() ? "" : ", ") + short_number(shipped.density);
  }
  if (!densities.empty()) {
    throw ArgumentError("--plan auto: density: got " + short_number(density) +
                        ", the shipped plans of " + own_name + " have " + densities);
  }
  std::string names;
  for (const std::string& name : models) names += (names.empty() ? "" : ", ") + name;
  throw ArgumentError("--plan auto: no plan ships for the model with fingerprint " +
                      config.fingerprint.substr(0, 16) + "...; there are plans for: " +
                      (names.empty() ? "no model" : names) + " (in " + directory.string() + ")");
}

}  // namespace moa_rt::cli
