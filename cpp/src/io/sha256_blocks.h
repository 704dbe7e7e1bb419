// The compression function of SHA-256, in plain C++ and with the processor's own instructions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace moa_rt::sha256 {

using State = std::array<std::uint32_t, 8>;
// Absorbs `count` blocks of 64 bytes.
using CompressFn = void (*)(State& state, const std::byte* blocks, std::size_t count);

extern const std::array<std::uint32_t, 64> kRoundConstants;

void compress_portable(State& state, const std::byte* blocks, std::size_t count);

// nullptr where the processor or the compiler's target has no SHA instructions.
CompressFn accelerated_compress();

}  // namespace moa_rt::sha256
