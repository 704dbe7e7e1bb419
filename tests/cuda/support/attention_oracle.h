// Attention by definition, in double, one block for each query head of a row: simple enough to be
// read at a glance, fast enough for thousands of rows.
#pragma once

#include <cstdint>
#include <vector>

namespace moa_rt::testing {

struct OracleProblem {
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::vector<int> sinks;  // of every KV head
  std::vector<int> windows;
  const std::vector<float>* qkv = nullptr;  // (positions, (Hq + 2 Hkv) * D)
  int first = 0;                            // queries [first, first + count)
  int count = 0;
};

// (count, Hq * D).
std::vector<double> attention_by_definition(const OracleProblem& problem);

}  // namespace moa_rt::testing
