// Four float32 lanes in the compiler's own vector type: any processor. See simd_avx2.h for the
// words.
#pragma once

#include <cstdint>

namespace moa_rt {
namespace {

typedef float Float4 __attribute__((vector_size(16)));
typedef std::int32_t Int4 __attribute__((vector_size(16)));
typedef std::uint32_t Uint4 __attribute__((vector_size(16)));

struct Simd {
  using F = Float4;
  static constexpr int kWidth = 4;
  static constexpr int kTileRowsF32 = 2;  // register tile of a product
  static constexpr int kTilePanelsF32 = 1;

  static F zero() { return F{0, 0, 0, 0}; }
  static F set1(float x) { return F{x, x, x, x}; }
  static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static F load(const std::uint16_t* p) { return (F)(Uint4{p[0], p[1], p[2], p[3]} << 16); }
  template <typename T>
  static F load_n(const T* p, int n) {
    T padded[4] = {};
    for (int i = 0; i < n; ++i) padded[i] = p[i];
    return load(padded);
  }
  static void load_pairs(const std::uint16_t* p, F& even, F& odd) {
    Uint4 x;
    __builtin_memcpy(&x, p, sizeof(x));
    even = (F)(x << 16);
    odd = (F)(x & 0xffff0000u);
  }
  static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof(x)); }
  static void store_n(float* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[i] = x[i];
  }
  static void store(std::uint16_t* p, F x) {
    const Uint4 bits = bf16_bits(x);
    for (int i = 0; i < 4; ++i) p[i] = static_cast<std::uint16_t>(bits[i]);
  }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  static F fma(F a, F b, F c) { return a * b + c; }  // two roundings
  static F zero_below(F x, F limit, F value) { return x < limit ? zero() : value; }
  static F pow2(F n) { return (F)((__builtin_convertvector(n, Int4) + 127) << 23); }
  static F round_bf16(F x) { return (F)(bf16_bits(x) << 16); }
  static float sum(F x) { return (x[0] + x[1]) + (x[2] + x[3]); }
  static float max_of(F x) {
    const float a = x[0] > x[1] ? x[0] : x[1];
    const float b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
  }
  static void sum4(F a, F b, F c, F d, float* out) {
    out[0] = sum(a);
    out[1] = sum(b);
    out[2] = sum(c);
    out[3] = sum(d);
  }

 private:
  static Uint4 bf16_bits(F x) {
    const Uint4 bits = (Uint4)x;
    const Uint4 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return x == x ? rounded : ((bits >> 16) | 0x40u);
  }
};

}  // namespace
}  // namespace moa_rt
