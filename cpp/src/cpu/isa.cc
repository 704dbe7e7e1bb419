#include "cpu/isa.h"

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace {

struct IsaEntry {
  const char* name;
  const CpuKernels& (*kernels)();  // nullptr where the build has none
  bool available;
};

#if defined(MOA_RT_X86_KERNELS)
// The builtins also ask the operating system (XCR0) whether it saves the wide registers.
std::vector<IsaEntry> isa_table() {
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return {{"portable", portable_kernels, true},
          {"avx2", avx2_kernels, avx2},
          {"avx512", avx512_kernels, avx512},
          {"avx512_bf16", avx512_bf16_kernels, bf16}};
}
#else
std::vector<IsaEntry> isa_table() {
  return {{"portable", portable_kernels, true},
          {"avx2", nullptr, false},
          {"avx512", nullptr, false},
          {"avx512_bf16", nullptr, false}};
}
#endif

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const IsaEntry& entry : isa_table()) {
    if (entry.available) names.emplace_back(entry.name);
  }
  return names;
}

const CpuKernels& select_kernels(const std::string& isa) {
  const std::vector<std::string> available = available_isas();
  const std::string& name = isa == "auto" ? available.back() : isa;
  for (const IsaEntry& entry : isa_table()) {
    if (name != entry.name) continue;
    if (entry.available) return entry.kernels();
    throw UnsupportedError(describe({.item = "cpu",
                                     .field = "isa",
                                     .got = name,
                                     .want = "one this processor has: " + join(available)}));
  }
  throw ArgumentError(describe({.item = "cpu",
                                .field = "isa",
                                .got = quoted_item("name", isa),
                                .want = "auto, portable, avx2, avx512 or avx512_bf16"}));
}

}  // namespace moa_rt
