#include "io/sha256.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "io/sha256_blocks.h"

namespace moa_rt {
namespace sha256 {

// First 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS
// 180-4, 4.2.2).
const std::array<std::uint32_t, 64> kRoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

std::uint32_t load_big_endian(const std::byte* data) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = (value << 8) | std::to_integer<std::uint32_t>(data[i]);
  return value;
}

std::array<std::uint32_t, 64> message_schedule(const std::byte* block) {
  std::array<std::uint32_t, 64> w;
  for (std::size_t t = 0; t < 16; ++t) w[t] = load_big_endian(block + 4 * t);
  for (std::size_t t = 16; t < 64; ++t) {
    const std::uint32_t a = w[t - 15];
    const std::uint32_t b = w[t - 2];
    const std::uint32_t s0 = std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3);
    const std::uint32_t s1 = std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10);
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
  return w;
}

void compress_block(State& state, const std::byte* block) {
  const std::array<std::uint32_t, 64> w = message_schedule(block);
  auto [a, b, c, d, e, f, g, h] = state;
  for (std::size_t t = 0; t < 64; ++t) {
    const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const std::uint32_t choice = (e & f) ^ (~e & g);
    const std::uint32_t t1 = h + s1 + choice + kRoundConstants[t] + w[t];
    const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const std::uint32_t majority = (a & b) ^ (a & c) ^ (b & c);
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + s0 + majority;
  }
  const State round = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < state.size(); ++i) state[i] += round[i];
}

void compress(State& state, const std::byte* blocks, std::size_t count) {
  static const CompressFn accelerated = accelerated_compress();
  (accelerated != nullptr ? accelerated : compress_portable)(state, blocks, count);
}

}  // namespace

void compress_portable(State& state, const std::byte* blocks, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) compress_block(state, blocks + 64 * i);
}

}  // namespace sha256

// First 32 bits of the fractional parts of the square roots of the first 8 primes (5.3.3).
Sha256::Sha256()
    : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19} {}

void Sha256::update(std::span<const std::byte> data) {
  if (data.empty()) return;
  bytes_ += data.size();
  if (filled_ > 0) {
    const std::size_t taken = std::min(kBlockBytes - filled_, data.size());
    std::memcpy(block_.data() + filled_, data.data(), taken);
    filled_ += taken;
    data = data.subspan(taken);
    if (filled_ < kBlockBytes) return;
    sha256::compress(state_, block_.data(), 1);
    filled_ = 0;
  }
  const std::size_t blocks = data.size() / kBlockBytes;
  sha256::compress(state_, data.data(), blocks);
  data = data.subspan(blocks * kBlockBytes);
  std::copy(data.begin(), data.end(), block_.begin());
  filled_ = data.size();
}

std::string Sha256::hex_digest() {
  const std::uint64_t bits = bytes_ * 8;
  std::array<std::byte, kBlockBytes + 8> padding{};
  padding[0] = std::byte{0x80};
  // One 1 bit, zeros up to 8 bytes below a block's end, then the length in bits, big-endian.
  const std::size_t zeros = (2 * kBlockBytes - 9 - filled_) % kBlockBytes;
  for (std::size_t i = 0; i < 8; ++i) {
    padding[1 + zeros + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  }
  update(std::span(padding).first(1 + zeros + 8));
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += kDigits[(word >> shift) & 15];
  }
  return hex;
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex_digest();
}

std::string sha256_hex(const File& file, std::int64_t offset, std::int64_t bytes) {
  constexpr std::int64_t kPartBytes = std::int64_t{4} << 20;
  std::vector<std::byte> part(static_cast<std::size_t>(std::min(bytes, kPartBytes)));
  Sha256 hash;
  for (std::int64_t done = 0; done < bytes; done += kPartBytes) {
    const auto size = static_cast<std::size_t>(std::min(kPartBytes, bytes - done));
    const std::span<std::byte> view = std::span(part).first(size);
    file.read_at(offset + done, view);
    hash.update(view);
  }
  return hash.hex_digest();
}

bool is_sha256_hex(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace moa_rt
