// Kernels over one row of activations. Included by one file per instruction set, after its
// simd_*.h; everything lives in an anonymous namespace (see kernels.h).
#pragma once

#include "cpu/kernels.h"

namespace moa_rt {
namespace {

// Calls body(offset, load, store) vector by vector; the last one may be partial.
template <class Body>
inline void for_vectors(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) body(i, Simd::kWidth);
  if (i < count) body(i, static_cast<int>(count - i));
}

template <typename T>
inline Simd::F load_first(const T* p, int n) {
  return n == Simd::kWidth ? Simd::load(p) : Simd::load_n(p, n);
}

inline void store_first(float* p, Simd::F x, int n) {
  if (n == Simd::kWidth) {
    Simd::store(p, x);
  } else {
    Simd::store_n(p, x, n);
  }
}

// e^x: 2^n * e^r with |r| <= ln(2) / 2 and the Taylor series of e^r to degree 7, whose remainder is
// below 0.1 ulp. 0 below -87.3, where the result would be subnormal; 2^127.5 above 88.37; NaN
// stays.
inline Simd::F exp(Simd::F x) {
  const Simd::F low = Simd::set1(-87.3f);
  const Simd::F clamped = Simd::min(Simd::set1(88.37f), Simd::max(low, x));
  const Simd::F shift = Simd::set1(12582912.0f);  // 1.5 * 2^23: rounds to an integer
  const Simd::F scaled = Simd::mul(clamped, Simd::set1(1.44269504f));
  const Simd::F n = Simd::sub(Simd::add(scaled, shift), shift);
  Simd::F r = Simd::fma(n, Simd::set1(-0.693359375f), clamped);  // ln(2) in two parts
  r = Simd::fma(n, Simd::set1(2.12194440e-4f), r);
  Simd::F y = Simd::set1(1.0f / 5040.0f);
  y = Simd::fma(y, r, Simd::set1(1.0f / 720.0f));
  y = Simd::fma(y, r, Simd::set1(1.0f / 120.0f));
  y = Simd::fma(y, r, Simd::set1(1.0f / 24.0f));
  y = Simd::fma(y, r, Simd::set1(1.0f / 6.0f));
  y = Simd::fma(y, r, Simd::set1(0.5f));
  y = Simd::fma(Simd::mul(r, r), y, r);
  y = Simd::add(y, Simd::set1(1.0f));
  return Simd::zero_below(x, low, Simd::mul(y, Simd::pow2(n)));
}

void rms_norm(const float* x, const float* weight, std::int64_t count, float eps, float* out) {
  Simd::F sum[4] = {Simd::zero(), Simd::zero(), Simd::zero(), Simd::zero()};
  std::int64_t i = 0;
  for (; i + 4 * Simd::kWidth <= count; i += 4 * Simd::kWidth) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const Simd::F a = Simd::load(x + i + v * Simd::kWidth);
      sum[v] = Simd::fma(a, a, sum[v]);
    }
  }
  for_vectors(count - i, [&](std::int64_t offset, int n) {
    const Simd::F a = load_first(x + i + offset, n);
    sum[0] = Simd::fma(a, a, sum[0]);
  });
  const Simd::F total = Simd::add(Simd::add(sum[0], sum[1]), Simd::add(sum[2], sum[3]));
  const float mean = Simd::sum(total) / static_cast<float>(count);
  const Simd::F scale = Simd::set1(1.0f / __builtin_sqrtf(mean + eps));
  for_vectors(count, [&](std::int64_t offset, int n) {
    const Simd::F normed = Simd::mul(load_first(x + offset, n), scale);
    store_first(out + offset, Simd::mul(normed, load_first(weight + offset, n)), n);
  });
}

void silu_mul(const float* gate, const float* up, std::int64_t count, float* out) {
  for_vectors(count, [&](std::int64_t offset, int n) {
    const Simd::F g = load_first(gate + offset, n);
    const Simd::F denominator = Simd::add(Simd::set1(1.0f), exp(Simd::sub(Simd::zero(), g)));
    const Simd::F silu = Simd::div(g, denominator);
    store_first(out + offset, Simd::mul(silu, load_first(up + offset, n)), n);
  });
}

// The first n elements; -infinity in the other lanes, which no maximum and no sum of exponentials
// sees.
inline Simd::F load_or_nothing(const float* p, int n) {
  if (n == Simd::kWidth) return Simd::load(p);
  float lanes[Simd::kWidth];
  for (int i = 0; i < Simd::kWidth; ++i) lanes[i] = i < n ? p[i] : -__builtin_inff();
  return Simd::load(lanes);
}

float row_max(const float* x, std::int64_t count) {
  Simd::F top = Simd::set1(-__builtin_inff());
  for_vectors(count, [&](std::int64_t offset, int n) {
    top = Simd::max(load_or_nothing(x + offset, n), top);  // a NaN leaves top as it is
  });
  return Simd::max_of(top);
}

double sum_exp(const float* x, std::int64_t count, float shift) {
  // Blocks in float32, their sums in double: a vocabulary's tail is not lost to rounding.
  constexpr std::int64_t kBlock = 64 * Simd::kWidth;
  const Simd::F shifts = Simd::set1(shift);
  double total = 0.0;
  for (std::int64_t begin = 0; begin < count; begin += kBlock) {
    Simd::F sum = Simd::zero();
    for_vectors(count - begin < kBlock ? count - begin : kBlock, [&](std::int64_t offset, int n) {
      sum = Simd::add(sum, exp(Simd::sub(load_or_nothing(x + begin + offset, n), shifts)));
    });
    total += static_cast<double>(Simd::sum(sum));
  }
  return total;
}

// Rotates the pairs (x[i], x[i + half]).
void rope(float* x, const float* cos, const float* sin, std::int64_t half) {
  for_vectors(half, [&](std::int64_t offset, int n) {
    const Simd::F a = load_first(x + offset, n);
    const Simd::F b = load_first(x + half + offset, n);
    const Simd::F c = load_first(cos + offset, n);
    const Simd::F s = load_first(sin + offset, n);
    store_first(x + offset, Simd::sub(Simd::mul(a, c), Simd::mul(b, s)), n);
    store_first(x + half + offset, Simd::add(Simd::mul(b, c), Simd::mul(a, s)), n);
  });
}

void narrow_bf16(const float* x, std::int64_t count, std::uint16_t* out) {
  for_vectors(count, [&](std::int64_t offset, int n) {
    std::uint16_t lanes[Simd::kWidth];
    std::uint16_t* target = n == Simd::kWidth ? out + offset : lanes;
    Simd::store(target, load_first(x + offset, n));
    if (n < Simd::kWidth) {
      for (int i = 0; i < n; ++i) out[offset + i] = lanes[i];
    }
  });
}

// The operand form that keeps bf16 values as float32.
void round_operand(const float* x, std::int64_t count, std::int64_t padded, void* out) {
  float* rounded = static_cast<float*>(out);
  for_vectors(count, [&](std::int64_t offset, int n) {
    store_first(rounded + offset, Simd::round_bf16(load_first(x + offset, n)), n);
  });
  for (std::int64_t i = count; i < padded; ++i) rounded[i] = 0.0f;
}

}  // namespace
}  // namespace moa_rt
