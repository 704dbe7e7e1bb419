// How far a result may lie from its oracle: one table per dtype, no other numbers in any test.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <string>

#include "moa_rt/types.h"

namespace moa_rt {

// |got - want| <= relative * scale, where scale is the size of what was added up or computed.
// Oracles of a bf16 run round the same inputs to bf16, so what is left is the order of float32
// additions; the bf16 dot product also flushes subnormal products.
struct Tolerance {
  double elementwise;        // no sum: a few ulp
  double sum;                // products with up to some thousand terms
  double attention;          // a softmax of such products
  double rounded_attention;  // the same, each probability rounded to the dtype: half an ulp of it
};

inline Tolerance tolerance(DType dtype) {
  if (dtype == DType::kF32) {
    return {.elementwise = 5e-7, .sum = 2e-6, .attention = 1e-5, .rounded_attention = 1e-5};
  }
  return {.elementwise = 5e-7,
          .sum = 4e-6,
          .attention = 2e-5,
          .rounded_attention = dtype == DType::kBF16 ? 2e-3 : 2.6e-4};
}

// Every element of got within allowed * scale of want, and finite.
inline void expect_close(std::span<const float> got, std::span<const double> want, double allowed,
                         double scale, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::fabs(static_cast<double>(got[i]) - want[i]);
    ASSERT_TRUE(error <= allowed * scale)
        << what << ": element " << i << ": got " << got[i] << ", want " << want[i] << ", allowed "
        << allowed * scale;
  }
}

}  // namespace moa_rt
