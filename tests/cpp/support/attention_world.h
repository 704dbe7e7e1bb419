// Sequences of random q, k and v that are fed to a backend in steps, and attention by definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/kv_cache.h"
#include "ops/ops.h"
#include "support/backends.h"
#include "support/tolerance.h"

namespace moa_rt {

// One sequence: the activations of all its positions, its cache and what attention returned so far.
struct Sequence {
  AttentionShape shape;
  std::vector<HeadSpan> spans;
  std::vector<float> qkv;  // (positions, (Hq + 2 Hkv) * D)
  std::unique_ptr<KVCache> cache;
  std::vector<float> out;  // (positions, Hq * D), poisoned at first
  std::int64_t fed = 0;    // rows of qkv already given to the backend

  std::int64_t qkv_width() const {
    return (shape.num_query_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  }
  std::int64_t out_width() const { return shape.num_query_heads * shape.head_dim; }
  std::int64_t group() const { return shape.num_query_heads / shape.num_kv_heads; }
  std::int64_t length() const { return fed; }

  std::span<const float> row(std::int64_t position, std::int64_t head_of_row) const {
    return {qkv.data() + position * qkv_width() + head_of_row * shape.head_dim,
            static_cast<std::size_t>(shape.head_dim)};
  }
  std::span<const float> query(std::int64_t p, std::int64_t head) const { return row(p, head); }
  std::span<const float> key(std::int64_t p, std::int64_t head) const {
    return row(p, shape.num_query_heads + head);
  }
  std::span<const float> value(std::int64_t p, std::int64_t head) const {
    return row(p, shape.num_query_heads + shape.num_kv_heads + head);
  }
  std::span<const float> out_so_far() const {
    return {out.data(), static_cast<std::size_t>(fed * out_width())};
  }
  // What the whole group of a KV head got.
  std::span<const float> out_head(std::int64_t p, std::int64_t kv_head) const {
    const std::int64_t width = group() * shape.head_dim;
    return {out.data() + p * out_width() + kv_head * width, static_cast<std::size_t>(width)};
  }

  // Becomes KV head `head` of another sequence.
  void copy_head(const Sequence& other, std::int64_t head) {
    const std::int64_t dim = shape.head_dim;
    for (std::int64_t p = 0; p < static_cast<std::int64_t>(qkv.size()) / qkv_width(); ++p) {
      float* target = qkv.data() + p * qkv_width();
      for (std::int64_t g = 0; g < group(); ++g, target += dim) {
        std::ranges::copy(other.query(p, head * group() + g), target);
      }
      std::ranges::copy(other.key(p, head), target);
      std::ranges::copy(other.value(p, head), target + dim);
    }
  }

  std::vector<float> cached_key(std::int64_t position, std::int64_t head) const {
    return cached(cache->segment(0, head).keys, position, head);
  }
  std::vector<float> cached_value(std::int64_t position, std::int64_t head) const {
    return cached(cache->segment(0, head).values, position, head);
  }

  // Pretends that `count` positions have been appended, all of the same key and value (exact in
  // bf16).
  void set_history(std::int64_t count, float key_value, float value_value) {
    for (std::int64_t h = 0; h < shape.num_kv_heads; ++h) {
      const HeadSegment segment = cache->segment(0, h);
      for (std::int64_t i = 0; i < segment.head.span() * shape.head_dim; ++i) {
        store(segment.keys, i, key_value);
        store(segment.values, i, value_value);
      }
    }
    cache->advance(count);
  }

 private:
  void store(std::byte* base, std::int64_t index, float x) const {
    if (cache->layout().dtype() == DType::kF32) {
      std::memcpy(base + index * 4, &x, 4);
    } else {
      const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
      std::memcpy(base + index * 2, &bits, 2);
    }
  }
  std::vector<float> cached(const std::byte* base, std::int64_t position, std::int64_t head) const {
    const HeadSpan& span = spans[static_cast<std::size_t>(head)];
    const std::int64_t slot =
        position < span.sink ? position : span.sink + (position - span.sink) % span.window;
    std::vector<float> row_values(static_cast<std::size_t>(shape.head_dim));
    for (std::size_t d = 0; d < row_values.size(); ++d) {
      const std::int64_t index = slot * shape.head_dim + static_cast<std::int64_t>(d);
      if (cache->layout().dtype() == DType::kF32) {
        std::memcpy(&row_values[d], base + index * 4, 4);
      } else {
        std::uint16_t bits = 0;
        std::memcpy(&bits, base + index * 2, 2);
        row_values[d] = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
      }
    }
    return row_values;
  }
};

struct WorldLimits {
  std::int64_t rows = 1200;
  std::int64_t sequences = 4;
  std::int64_t length = 1200;
};

// A backend with its workspace, and a rope table that rotates by nothing.
class World {
 public:
  World(std::unique_ptr<Backend> backend, const AttentionShape& shape, DType dtype,
        const WorldLimits& limits = {})
      : backend_(std::move(backend)), shape_(shape), dtype_(dtype) {
    backend_->reserve({.attention = shape,
                       .max_rows = limits.rows,
                       .max_sequences = limits.sequences,
                       .max_seq_len = limits.length,
                       .max_matrix_cols = 16,
                       .dtype = dtype});
    const auto size = static_cast<std::size_t>(limits.length * shape.head_dim / 2);
    cos_.assign(size, 1.0f);
    sin_.assign(size, 0.0f);
    rope_ = {matrix_view(cos_, limits.length, shape.head_dim / 2),
             matrix_view(sin_, limits.length, shape.head_dim / 2)};
  }

  Backend& backend() { return *backend_; }

  Sequence sequence(const std::vector<HeadSpan>& spans, std::int64_t positions, std::uint32_t seed,
                    int cache_fill = 0xff, float scale = 1.0f) {
    Sequence sequence{.shape = shape_, .spans = spans, .qkv = {}, .cache = {}, .out = {}};
    sequence.qkv = random_floats(positions * sequence.qkv_width(), seed, scale);
    sequence.out = poisoned(positions * sequence.out_width());
    sequence.cache = std::make_unique<KVCache>(backend_->allocator(),
                                               CacheLayout({spans}, shape_.head_dim, dtype_));
    std::memset(sequence.cache->segment(0, 0).keys, cache_fill,
                static_cast<std::size_t>(sequence.cache->bytes()));
    return sequence;
  }

  // The next `count` positions of each sequence, in one step.
  void step(const std::vector<std::pair<Sequence*, std::int64_t>>& work) {
    std::vector<SequenceSlice> slices;
    std::vector<float> qkv;
    for (const auto& [sequence, count] : work) {
      const std::int64_t width = sequence->qkv_width();
      slices.push_back({.cache = sequence->cache.get(),
                        .row = static_cast<std::int64_t>(qkv.size()) / width,
                        .count = count,
                        .position = sequence->cache->length()});
      const auto begin = sequence->qkv.begin() + sequence->fed * width;
      qkv.insert(qkv.end(), begin, begin + count * width);
    }
    const std::int64_t rows = slices.back().row + slices.back().count;
    const std::int64_t out_width = shape_.num_query_heads * shape_.head_dim;
    std::vector<float> out = poisoned(rows * out_width);
    Tensor qkv_view = matrix_view(qkv, rows, static_cast<std::int64_t>(qkv.size()) / rows);
    Tensor out_view = matrix_view(out, rows, out_width);
    ops::rope_append(*backend_, {.shape = shape_, .layer = 0, .slices = slices, .rope = &rope_},
                     qkv_view);
    ops::attention(*backend_, {.shape = shape_, .layer = 0, .slices = slices}, qkv_view, out_view);
    for (std::size_t i = 0; i < work.size(); ++i) {
      const auto& [sequence, count] = work[i];
      std::copy_n(out.begin() + slices[i].row * out_width, count * out_width,
                  sequence->out.begin() + sequence->fed * out_width);
      sequence->fed += count;
      sequence->cache->advance(count);
    }
  }

 private:
  std::unique_ptr<Backend> backend_;
  AttentionShape shape_;
  DType dtype_;
  std::vector<float> cos_, sin_;
  RopeTable rope_;
};

struct Oracle {
  std::vector<double> out;
  double scale = 0.0;  // largest value
};

// Rows [from, fed) by definition: softmax of q.k / sqrt(D) over every k with k <= q and (k < sink
// or q - k < window), in double, from inputs rounded to the dtype.
inline Oracle attention_oracle(const Sequence& s, std::int64_t from, DType dtype) {
  std::vector<float> inputs = s.qkv;
  if (dtype == DType::kBF16) std::ranges::transform(inputs, inputs.begin(), round_to_bf16);
  const auto row = [&](std::int64_t position, std::int64_t head_of_row) {
    return inputs.data() + position * s.qkv_width() + head_of_row * s.shape.head_dim;
  };
  const std::int64_t first_key = s.shape.num_query_heads;
  const std::int64_t first_value = first_key + s.shape.num_kv_heads;
  Oracle oracle;
  const auto dim = static_cast<std::size_t>(s.shape.head_dim);
  for (std::int64_t q = from; q < s.fed; ++q) {
    for (std::int64_t h = 0; h < s.shape.num_query_heads; ++h) {
      const std::int64_t kv = h / s.group();
      const HeadSpan& span = s.spans[static_cast<std::size_t>(kv)];
      std::vector<double> scores;
      std::vector<std::int64_t> keys;
      for (std::int64_t k = 0; k <= q; ++k) {
        if (!(k < span.sink || q - k < span.window)) continue;
        const float *query = row(q, h), *key = row(k, first_key + kv);
        double score = 0.0;
        for (std::size_t d = 0; d < dim; ++d) score += static_cast<double>(query[d]) * key[d];
        scores.push_back(score / std::sqrt(static_cast<double>(dim)));
        keys.push_back(k);
      }
      const double max = *std::ranges::max_element(scores);
      double sum = 0.0;
      std::vector<double> out(dim, 0.0);
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const double weight = std::exp(scores[i] - max);
        sum += weight;
        const float* value = row(keys[i], first_value + kv);
        for (std::size_t d = 0; d < dim; ++d) {
          out[d] += weight * value[d];
          oracle.scale = std::max(oracle.scale, std::fabs(static_cast<double>(value[d])));
        }
      }
      for (const double x : out) oracle.out.push_back(x / sum);
    }
  }
  return oracle;
}

}  // namespace moa_rt
