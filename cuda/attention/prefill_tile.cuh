// What every prefill kernel needs to know about a tile of queries and a tile of keys.
#pragma once

namespace moa_rt::cuda {

// Row r of the tile is query head r % group of token r / group.
struct RowMap {
  int group;
  int tokens;
  __device__ bool valid(int row) const { return row < tokens * group; }
  __device__ int token(int row) const { return row / group; }
};

// The mask of a head over one tile of keys at positions [first, first + count).
template <int Keys>
struct KeyTile {
  int first;
  int count;
  int sink;
  int window;

  __device__ bool visible(int query, int column) const {
    const int key = first + column;
    return column < count && key <= query && (key < sink || query - key < window);
  }
  // For queries [low, high]: whether all pairs, or none, are visible.
  __device__ bool all_visible(int low, int high) const {
    const int last = first + Keys - 1;
    return count == Keys && last <= low && (last < sink || high - first < window);
  }
  __device__ bool none_visible(int low, int high) const {
    return first > high || (first >= sink && low - (first + count - 1) >= window);
  }
};

}  // namespace moa_rt::cuda
