// Asynchronous copies from global to shared memory, and the layout of tiles there.
#pragma once

#include <cstdint>

namespace moa_rt::cuda {

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// 16 bytes; zeros instead, without touching `source`, where valid is false.
__device__ inline void copy_async_16(std::uint32_t target, const void* source, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
               "r"(bytes)
               : "memory");
}

__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `Pending` of this thread's latest groups are still under way.
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// A tile of rows of D 2-byte elements, the 16-byte chunks of a row permuted so that the eight rows
// of an 8x8 matrix fall into different banks. Every chunk stays in its own row.
template <int D>
struct TileLayout {
  static_assert(D == 64 || D == 80 || D == 96 || D == 128);
  static constexpr int kRowChunks = D / 8;
  static constexpr int kRowBytes = D * 2;

  // What the chunk numbers of a row are combined with by exclusive or. Equal for rows 16 apart.
  __device__ static int flip(int row) {
    if constexpr (D == 96) {
      return (row >> 1) & 3;
    } else if constexpr (D == 80) {
      return (row >> 2) & 1;
    } else {
      return row & 7;
    }
  }
  // Byte offset of chunk c of a row.
  __device__ static std::uint32_t offset(int row, int c) {
    return static_cast<std::uint32_t>(row * kRowBytes + (c ^ flip(row)) * 16);
  }
};

// Addresses of chunks c, c + 2, c + 4, ... of a row (c is 0 or 1) and of rows 16 apart from it, for
// two registers.
template <int D>
class TileCursor {
 public:
  __device__ TileCursor(int row, int c)
      : row_(static_cast<std::uint32_t>(row * TileLayout<D>::kRowBytes)),
        flip_(static_cast<std::uint32_t>((c ^ TileLayout<D>::flip(row)) * 16)) {}

  // Of row + 16 * block and chunk c + 2 * step in the tile at `tile`.
  __device__ std::uint32_t address(std::uint32_t tile, int block, int step) const {
    return tile + row_ + (flip_ ^ static_cast<std::uint32_t>(step * 32)) +
           static_cast<std::uint32_t>(block * 16 * TileLayout<D>::kRowBytes);
  }

 private:
  std::uint32_t row_;
  std::uint32_t flip_;
};

}  // namespace moa_rt::cuda
