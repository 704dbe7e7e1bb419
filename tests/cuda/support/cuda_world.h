// Sequences of random q, k and v fed to the CUDA backend in steps and compared with attention by
// definition.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache/kv_cache.h"
#include "ops/ops.h"
#include "support/attention_oracle.h"
#include "support/device_data.h"

namespace moa_rt::testing {

// The layer that the tests attend in; the caches have one before it, so that offsets matter.
inline constexpr std::int64_t kLayer = 1;

struct CudaSequence {
  AttentionShape shape;
  std::vector<HeadSpan> spans;
  std::vector<float> qkv;  // (positions, width), exact in the caches' type
  std::unique_ptr<KVCache> cache;
  std::vector<float> out;  // (fed, Hq * D)

  std::int64_t width() const {
    return (shape.num_query_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  }
  std::int64_t out_width() const { return shape.num_query_heads * shape.head_dim; }
  std::int64_t fed() const { return cache->length(); }
};

class CudaWorld {
 public:
  CudaWorld(const AttentionShape& shape, DType dtype, std::int64_t rows = 2048,
            std::int64_t sequences = 8, std::int64_t length = 8192)
      : backend_(make_cuda_backend({DeviceType::kCuda, 0})), shape_(shape), dtype_(dtype) {
    backend_->reserve({.attention = shape,
                       .max_rows = rows,
                       .max_sequences = sequences,
                       .max_seq_len = length,
                       .max_matrix_cols = 16,
                       .dtype = dtype,
                       .num_layers = 2});
    const std::int64_t half = shape.head_dim / 2;
    const auto size = static_cast<std::size_t>(length * half);
    rope_.cos = on_device(*backend_, std::vector<float>(size, 1.0f), {length, half});
    rope_.sin = on_device(*backend_, std::vector<float>(size, 0.0f), {length, half});
  }

  Backend& backend() { return *backend_; }

  // NaN in every slot.
  CudaSequence sequence(const std::vector<HeadSpan>& spans, std::int64_t positions,
                        std::uint32_t seed, float scale = 1.0f) {
    CudaSequence s{.shape = shape_, .spans = spans, .qkv = {}, .cache = {}, .out = {}};
    s.qkv = random_rounded(positions * s.width(), seed, dtype_, scale);
    const std::vector<HeadSpan> before(spans.size(), HeadSpan{1, 2});
    s.cache = std::make_unique<KVCache>(backend_->allocator(),
                                        CacheLayout({before, spans}, shape_.head_dim, dtype_));
    EXPECT_EQ(
        cudaMemset(s.cache->segment(0, 0).keys, 0xff, static_cast<std::size_t>(s.cache->bytes())),
        cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return s;
  }

  // The next `count` positions of each sequence, in one step.
  void step(const std::vector<std::pair<CudaSequence*, std::int64_t>>& work) {
    std::vector<SequenceSlice> slices;
    std::vector<float> rows;
    for (const auto& [s, count] : work) {
      slices.push_back({.cache = s->cache.get(),
                        .row = static_cast<std::int64_t>(rows.size()) / s->width(),
                        .count = count,
                        .position = s->fed()});
      const auto begin = s->qkv.begin() + s->fed() * s->width();
      rows.insert(rows.end(), begin, begin + count * s->width());
    }
    const CudaSequence& any = *work.front().first;
    const std::int64_t total = slices.back().row + slices.back().count;
    Tensor qkv = on_device(*backend_, rows, {total, any.width()});
    Tensor out = poisoned_on_device(*backend_, {total, any.out_width()});
    ops::rope_append(*backend_,
                     {.shape = shape_, .layer = kLayer, .slices = slices, .rope = &rope_}, qkv);
    ops::attention(*backend_, {.shape = shape_, .layer = kLayer, .slices = slices}, qkv, out);
    const std::vector<float> got = to_host(*backend_, out);
    for (std::size_t i = 0; i < work.size(); ++i) {
      const auto& [s, count] = work[i];
      s->out.resize(static_cast<std::size_t>(s->fed() * s->out_width()));
      const auto begin = got.begin() + slices[i].row * s->out_width();
      s->out.insert(s->out.end(), begin, begin + count * s->out_width());
      s->cache->advance(count);
    }
  }

  // The last `count` rows of a sequence.
  void expect_defined(const CudaSequence& s, std::int64_t count, bool decode,
                      const std::string& what) {
    OracleProblem problem{.query_heads = static_cast<int>(shape_.num_query_heads),
                          .kv_heads = static_cast<int>(shape_.num_kv_heads),
                          .head_dim = static_cast<int>(shape_.head_dim),
                          .sinks = {},
                          .windows = {},
                          .qkv = &s.qkv,
                          .first = static_cast<int>(s.fed() - count),
                          .count = static_cast<int>(count)};
    for (const HeadSpan& span : s.spans) {
      problem.sinks.push_back(static_cast<int>(span.sink));
      problem.windows.push_back(static_cast<int>(span.window));
    }
    const Tolerance allowed = tolerance(dtype_);
    expect_close(std::span(s.out).last(static_cast<std::size_t>(count * s.out_width())),
                 attention_by_definition(problem),
                 decode ? allowed.attention : allowed.rounded_attention, largest(s.qkv),
                 what + ", length " + std::to_string(s.fed()));
  }

 private:
  std::unique_ptr<Backend> backend_;
  AttentionShape shape_;
  DType dtype_;
  RopeTable rope_;
};

}  // namespace moa_rt::testing
