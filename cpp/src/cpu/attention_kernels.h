// Kernels of attention: a chunk of decode, and the parts of a prefill tile. Included by one file
// per instruction set, after row_kernels.h; everything lives in an anonymous namespace (see
// kernels.h).
#pragma once

#include "cpu/kernels.h"
#include "cpu/row_kernels.h"

namespace moa_rt {
namespace {

inline constexpr int kGroupHeads = 4;  // query heads that share one reading of a chunk
inline constexpr std::int64_t kMaxHeadDim = 256;

// Slots whose scores are accumulated side by side: at most 12 accumulators.
constexpr int score_slots(int heads) { return heads <= 1 ? 8 : heads <= 3 ? 4 : 2; }

// scores[h][s] = q_h . k_s for Slots consecutive slots.
template <typename T, int Heads, int Slots>
void score_block(const float* queries, const T* keys, std::int64_t head_dim, int slots,
                 float scores[][kChunkSlots]) {
  const T* rows[Slots];
  // A block that reaches beyond the chunk repeats its last slot and drops what it gets.
  for (int s = 0; s < Slots; ++s) rows[s] = keys + (s < slots ? s : slots - 1) * head_dim;
  Simd::F sum[Heads][Slots < 4 ? 4 : Slots];
  for (int h = 0; h < Heads; ++h) {
    for (int s = 0; s < (Slots < 4 ? 4 : Slots); ++s) sum[h][s] = Simd::zero();
  }
  const auto accumulate = [&](std::int64_t d, const auto& load) {
#pragma GCC unroll 8
    for (int s = 0; s < Slots; ++s) {
      const Simd::F key = load(rows[s] + d);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) {
        sum[h][s] = Simd::fma(key, Simd::load(queries + h * kMaxHeadDim + d), sum[h][s]);
      }
    }
  };
  std::int64_t d = 0;
  for (; d + Simd::kWidth <= head_dim; d += Simd::kWidth) {
    accumulate(d, [](const T* p) { return Simd::load(p); });
  }
  if (Simd::kWidth > 8 && d < head_dim) {  // head_dim is a multiple of 8
    const int n = static_cast<int>(head_dim - d);
    accumulate(d, [n](const T* p) { return Simd::load_n(p, n); });
  }
  for (int h = 0; h < Heads; ++h) {
    for (int s = 0; s < Slots; s += 4) {
      float sums[4];
      Simd::sum4(sum[h][s], sum[h][s + 1], sum[h][s + 2], sum[h][s + 3], sums);
      for (int i = 0; i < 4 && s + i < Slots && s + i < slots; ++i) scores[h][s + i] = sums[i];
    }
  }
}

// scores -> weights exp(scale * (score - max)) with zeros up to the next vector; their max and sum.
inline void chunk_softmax(float* scores, std::int64_t count, float scale, float* max, float* sum) {
  Simd::F top = Simd::set1(scores[0]);
  for_vectors(count, [&](std::int64_t offset, int n) {
    if (n < Simd::kWidth) {
      for (int i = n; i < Simd::kWidth; ++i) scores[offset + i] = scores[0];
    }
    top = Simd::max(top, Simd::load(scores + offset));
  });
  *max = Simd::max_of(top) * scale;
  const Simd::F minus_max = Simd::set1(-*max);
  Simd::F total = Simd::zero();
  for_vectors(count, [&](std::int64_t offset, int n) {
    const Simd::F x = Simd::fma(Simd::load(scores + offset), Simd::set1(scale), minus_max);
    Simd::store(scores + offset, exp(x));
    for (int i = n; i < Simd::kWidth; ++i) scores[offset + i] = 0.0f;
    total = Simd::add(total, Simd::load(scores + offset));
  });
  *sum = Simd::sum(total);
}

// out_h[d..] = sum over slots of weight * value, for Vectors vectors of columns.
template <typename T, int Heads, int Vectors>
void value_block(const float weights[][kChunkSlots], const T* values, std::int64_t head_dim,
                 std::int64_t count, int n, float* out, std::int64_t out_stride) {
  Simd::F sum[Heads][Vectors];
  for (int h = 0; h < Heads; ++h) {
    for (int v = 0; v < Vectors; ++v) sum[h][v] = Simd::zero();
  }
  for (std::int64_t s = 0; s < count; ++s) {
    Simd::F weight[Heads];
#pragma GCC unroll 4
    for (int h = 0; h < Heads; ++h) weight[h] = Simd::set1(weights[h][s]);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const T* p = values + s * head_dim + v * Simd::kWidth;
      const Simd::F value = Vectors == 1 ? load_first(p, n) : Simd::load(p);
#pragma GCC unroll 4
      for (int h = 0; h < Heads; ++h) sum[h][v] = Simd::fma(weight[h], value, sum[h][v]);
    }
  }
  for (int h = 0; h < Heads; ++h) {
    for (int v = 0; v < Vectors; ++v) {
      store_first(out + h * out_stride + v * Simd::kWidth, sum[h][v],
                  Vectors == 1 ? n : Simd::kWidth);
    }
  }
}

// Asks for a block of memory that is needed soon. Values are read two half rows at a time, a
// pattern that hardware does not foresee; keys and values then stream at the speed of memory.
inline void prefetch(const void* begin, std::int64_t bytes) {
  const char* p = static_cast<const char*>(begin);
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

inline constexpr std::int64_t kKeysAhead = 2048;  // bytes

template <typename T, int Heads>
void decode_heads(const DecodeChunk& chunk, std::int64_t first_head) {
  const std::int64_t head_dim = chunk.head_dim;
  const std::int64_t stride = head_dim + 2;
  float queries[Heads * kMaxHeadDim];
  float scores[Heads][kChunkSlots];
  for (int h = 0; h < Heads; ++h) {
    const float* source = chunk.queries + (first_head + h) * head_dim;
    float* query = queries + h * kMaxHeadDim;
    const std::int64_t padded = (head_dim + Simd::kWidth - 1) / Simd::kWidth * Simd::kWidth;
    for (std::int64_t d = head_dim; d < padded; ++d) query[d] = 0.0f;
    for_vectors(head_dim, [&](std::int64_t d, int n) {
      const Simd::F q = load_first(source + d, n);
      store_first(query + d, chunk.bf16 ? Simd::round_bf16(q) : q, n);
    });
  }
  constexpr int kSlots = score_slots(Heads);
  const T* keys = static_cast<const T*>(chunk.keys);
  const T* values = static_cast<const T*>(chunk.values);
  for (std::int64_t s = 0; s < chunk.count; s += kSlots) {
    const int slots = chunk.count - s < kSlots ? static_cast<int>(chunk.count - s) : kSlots;
    const std::int64_t bytes = kSlots * head_dim * static_cast<std::int64_t>(sizeof(T));
    prefetch(reinterpret_cast<const char*>(keys + s * head_dim) + kKeysAhead, bytes);
    prefetch(values + s * head_dim, bytes);
    float(*block)[kChunkSlots] = reinterpret_cast<float(*)[kChunkSlots]>(&scores[0][s]);
    score_block<T, Heads, kSlots>(queries, keys + s * head_dim, head_dim, slots, block);
  }
  float* partial = chunk.partial + first_head * stride;
  for (int h = 0; h < Heads; ++h) {
    chunk_softmax(scores[h], chunk.count, chunk.scale, partial + h * stride,
                  partial + h * stride + 1);
  }
  constexpr int kVectors = Heads <= 3 ? 4 : 2;
  std::int64_t d = 0;
  for (; d + kVectors * Simd::kWidth <= head_dim; d += kVectors * Simd::kWidth) {
    value_block<T, Heads, kVectors>(scores, values + d, head_dim, chunk.count, Simd::kWidth,
                                    partial + 2 + d, stride);
  }
  for (; d < head_dim; d += Simd::kWidth) {
    const int n = head_dim - d < Simd::kWidth ? static_cast<int>(head_dim - d) : Simd::kWidth;
    value_block<T, Heads, 1>(scores, values + d, head_dim, chunk.count, n, partial + 2 + d, stride);
  }
}

template <typename T>
void decode_groups(const DecodeChunk& chunk) {
  std::int64_t head = 0;
  for (; head + kGroupHeads <= chunk.group; head += kGroupHeads) {
    decode_heads<T, kGroupHeads>(chunk, head);
  }
  const std::int64_t rest = chunk.group - head;
  if (rest == 3) decode_heads<T, 3>(chunk, head);
  if (rest == 2) decode_heads<T, 2>(chunk, head);
  if (rest == 1) decode_heads<T, 1>(chunk, head);
}

void decode_chunk(const DecodeChunk& chunk) {
  if (chunk.bf16) {
    decode_groups<std::uint16_t>(chunk);
  } else {
    decode_groups<float>(chunk);
  }
}

// Calls body(row, offset, n, vector) for every vector of every row of a block, as float32.
template <class Body>
inline void for_row_vectors(const RowBlock& block, std::int64_t count, std::int64_t head_dim,
                            const Body& body) {
  for (std::int64_t row = 0; row < count; ++row) {
    for_vectors(head_dim, [&](std::int64_t offset, int n) {
      const std::int64_t index = row * block.stride + offset;
      if (block.format == RowFormat::kBf16) {
        body(row, offset, n, load_first(static_cast<const std::uint16_t*>(block.rows) + index, n));
      } else {
        const Simd::F x = load_first(static_cast<const float*>(block.rows) + index, n);
        body(row, offset, n, block.format == RowFormat::kF32 ? x : Simd::round_bf16(x));
      }
    });
  }
}

void copy_rows(const RowBlock& block, std::int64_t count, std::int64_t head_dim, float* out) {
  for_row_vectors(block, count, head_dim, [&](std::int64_t row, std::int64_t d, int n, Simd::F x) {
    store_first(out + row * head_dim + d, x, n);
  });
}

void pack_keys(const RowBlock& block, std::int64_t count, std::int64_t head_dim, float* out) {
  const std::int64_t padded = (count + kPanelRows - 1) / kPanelRows * kPanelRows;
  for_row_vectors(block, count, head_dim, [&](std::int64_t row, std::int64_t d, int n, Simd::F x) {
    float lanes[Simd::kWidth];
    Simd::store(lanes, x);
    float* column = out + (row / kPanelRows * head_dim + d) * kPanelRows + row % kPanelRows;
    for (int i = 0; i < n; ++i) column[i * kPanelRows] = lanes[i];
  });
  for (std::int64_t row = count; row < padded; ++row) {
    float* column = out + row / kPanelRows * head_dim * kPanelRows + row % kPanelRows;
    for (std::int64_t d = 0; d < head_dim; ++d) column[d * kPanelRows] = 0.0f;
  }
}

void pack_values(const RowBlock& block, std::int64_t count, std::int64_t head_dim, float* out) {
  for_row_vectors(block, count, head_dim, [&](std::int64_t row, std::int64_t d, int n, Simd::F x) {
    store_first(out + (d / kPanelRows * count + row) * kPanelRows + d % kPanelRows, x, n);
  });
  const std::int64_t used = head_dim % kPanelRows;
  if (used == 0) return;
  float* last = out + head_dim / kPanelRows * count * kPanelRows;
  for (std::int64_t row = 0; row < count; ++row) {
    for (std::int64_t d = used; d < kPanelRows; ++d) last[row * kPanelRows + d] = 0.0f;
  }
}

void softmax_row(const SoftmaxRow& row) {
  const float infinity = __builtin_inff();
  for (std::int64_t i = 0; i < row.begin; ++i) row.scores[i] = -infinity;
  for (std::int64_t i = row.end; i < row.width; ++i) row.scores[i] = -infinity;
  Simd::F top = Simd::load(row.scores);
  for (std::int64_t i = Simd::kWidth; i < row.width; i += Simd::kWidth) {
    top = Simd::max(top, Simd::load(row.scores + i));
  }
  const float tile_max = Simd::max_of(top) * row.scale;
  const float max = *row.max > tile_max ? *row.max : tile_max;
  Simd::F total = Simd::zero();
  const Simd::F scale = Simd::set1(row.scale), minus_max = Simd::set1(-max);
  float* scores = row.scores;
  for (std::int64_t i = 0; i < row.width; i += Simd::kWidth) {
    const Simd::F weight = exp(Simd::fma(Simd::load(scores + i), scale, minus_max));
    Simd::store(scores + i, weight);
    total = Simd::add(total, weight);
  }
  if (max != *row.max) {
    float lanes[Simd::kWidth];
    Simd::store(lanes, exp(Simd::set1(*row.max - max)));  // 0 for the first tile, whose max is -inf
    const Simd::F factor = Simd::set1(lanes[0]);
    for (std::int64_t d = 0; d < row.out_width; d += Simd::kWidth) {
      Simd::store(row.out + d, Simd::mul(Simd::load(row.out + d), factor));
    }
    *row.sum *= lanes[0];
    *row.max = max;
  }
  *row.sum += Simd::sum(total);
}

}  // namespace
}  // namespace moa_rt
