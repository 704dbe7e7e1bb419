#include <gtest/gtest.h>

#include "ops/ops.h"
#include "support/backends.h"

namespace moa_rt {
namespace {

class EmbeddingTest : public BackendTest {};

// The gather is exact: rows of the table as loaded, whatever the panels look like inside.
TEST_P(EmbeddingTest, returns_rows_of_the_table) {
  const auto backend = make_backend();
  for (const std::int64_t cols : {1, 15, 64, 577}) {
    const std::int64_t vocab = 41;
    const auto values = random_floats(vocab * cols, 1);
    const Matrix table = load_matrix(*backend, values, vocab, cols, dtype());
    const std::vector<std::int32_t> tokens{0, 40, 15, 16, 17, 31, 32, 15};
    const auto rows = static_cast<std::int64_t>(tokens.size());
    std::vector<float> out = poisoned(rows * cols);
    Tensor out_view = matrix_view(out, rows, cols);
    ops::embed(*backend, table, tokens, out_view);
    for (std::int64_t m = 0; m < rows; ++m) {
      for (std::int64_t k = 0; k < cols; ++k) {
        const float want =
            values[static_cast<std::size_t>(tokens[static_cast<std::size_t>(m)] * cols + k)];
        ASSERT_EQ(out[static_cast<std::size_t>(m * cols + k)], rounded(want)) << m << " " << k;
      }
    }
  }
}

TEST_P(EmbeddingTest, gathers_rows) {
  const auto backend = make_backend();
  std::vector<float> x = random_floats(5 * 33, 1);
  const std::vector<std::int64_t> index{4, 0, 0, 2};
  std::vector<float> out = poisoned(4 * 33);
  Tensor out_view = matrix_view(out, 4, 33);
  ops::gather_rows(*backend, matrix_view(x, 5, 33), index, out_view);
  for (std::size_t i = 0; i < index.size(); ++i) {
    EXPECT_TRUE(same_bits(std::span(out).subspan(i * 33, 33),
                          std::span(x).subspan(static_cast<std::size_t>(index[i]) * 33, 33)));
  }
}

// The reader is asked for every row once, in order, in blocks that fit memory.
TEST_P(EmbeddingTest, loading_streams_the_rows) {
  const auto backend = make_backend();
  const std::int64_t rows = 3001, cols = 700;
  std::int64_t next = 0;
  const Matrix matrix = backend->load_matrix(
      rows, cols, dtype(), [&](std::int64_t begin, std::int64_t count, std::span<std::byte> out) {
        EXPECT_EQ(begin, next);
        EXPECT_LE(out.size(), std::size_t{2} << 20);
        std::ranges::fill(out, std::byte{0});
        next = begin + count;
      });
  EXPECT_EQ(next, rows);
  EXPECT_EQ(matrix.rows, rows);
  EXPECT_EQ(matrix.cols, cols);
}

MOA_RT_FOR_EVERY_VARIANT(EmbeddingTest);

}  // namespace
}  // namespace moa_rt
