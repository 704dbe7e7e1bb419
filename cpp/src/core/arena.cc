#include "core/arena.h"

#include <algorithm>
#include <string>

#include "moa_rt/error.h"
#include "moa_rt/span.h"

namespace moa_rt {

// visit(begin, bytes) of what lies between the blocks, from the front.
template <typename Visit>
void Arena::for_each_hole(const Visit& visit) const {
  std::int64_t begin = 0;
  for (const auto& [next, end] : ends_) {
    if (next > begin) visit(begin, next - begin);
    begin = round_up(end, alignment_);
  }
  if (capacity_ > begin) visit(begin, capacity_ - begin);
}

std::optional<std::int64_t> Arena::allocate(std::int64_t bytes) {
  if (bytes <= 0) throw InternalError("arena: block of " + std::to_string(bytes) + " bytes");
  std::optional<std::int64_t> best;
  std::int64_t best_size = 0;
  for_each_hole([&](std::int64_t begin, std::int64_t size) {
    if (size < bytes || (best && size >= best_size)) return;
    best = begin;
    best_size = size;
  });
  if (best) ends_.emplace(*best, *best + bytes);
  return best;
}

std::int64_t Arena::largest_hole() const {
  std::int64_t largest = 0;
  for_each_hole([&](std::int64_t, std::int64_t size) { largest = std::max(largest, size); });
  return largest;
}

}  // namespace moa_rt
