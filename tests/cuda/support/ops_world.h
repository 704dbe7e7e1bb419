// What the tests of single operations share: a backend of one type, ready for the rows they need.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "ops/ops.h"
#include "support/device_data.h"

namespace moa_rt::testing {

class OpsTest : public ::testing::TestWithParam<DType> {
 protected:
  static DType dtype() { return GetParam(); }
  static std::unique_ptr<Backend> make_backend(std::int64_t rows, std::int64_t cols) {
    auto backend = make_cuda_backend({DeviceType::kCuda, 0});
    backend->reserve({.attention = {.num_query_heads = 6, .num_kv_heads = 2, .head_dim = 64},
                      .max_rows = rows,
                      .max_sequences = 4,
                      .max_seq_len = 512,
                      .max_matrix_cols = cols,
                      .dtype = dtype()});
    return backend;
  }
};

inline std::string dtype_of_case(const ::testing::TestParamInfo<DType>& info) {
  return std::string(dtype_name(info.param));
}

}  // namespace moa_rt::testing
