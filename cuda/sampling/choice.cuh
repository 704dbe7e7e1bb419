// How a row that is not greedy is sampled: temperature, top-k, min-p, top-p, and the draw.
//
// What top-k and top-p keep is mostly short: it is gathered into shared memory by a threshold that
// surely keeps enough, and the cut is searched there over keys that order all candidates. Of a flat
// distribution top-p keeps too much for that: then what lies around the cut is gathered, which each
// pass finds eight times as exactly.
#pragma once

#include "cuda/sampling/row.cuh"
#include "cuda/sampling/sampling.h"
#include "ops/sampling_math.h"

namespace moa_rt::cuda::sampling {

// What a block keeps in shared memory.
struct Shared {
  std::uint64_t list[kListSize];
  std::uint64_t scratch[kMaxSums * kWarps];
  std::uint64_t best[kMaxTop];
  int count;
};

// A part of the scores, [bottom, end), as ordered integers [low, high), and what the row has from
// its ends on.
struct Stretch {
  double bottom, end;
  std::uint32_t low, high;
  std::uint64_t mass_from_high;
  std::uint32_t count_from_low, count_from_high;

  __device__ std::uint32_t count() const { return count_from_low - count_from_high; }
};

inline constexpr int kRungs = 8;

__device__ inline std::uint32_t ordered_below(double score) {
  return ordered(__double2float_rd(score));
}
__device__ inline std::uint64_t first_key(std::uint32_t ordered_score) {
  return static_cast<std::uint64_t>(ordered_score) << kIdBits;
}

// Temperature, top-k, min-p, top-p, and the draw.
class Choice {
 public:
  __device__ Choice(Block& block, Shared& shared, const RowState& state, const WholeRow& row,
                    float top)
      : block_(block),
        shared_(shared),
        state_(state),
        row_(row),
        weigh_{top, state.inverse, state.least},
        high_(key_of(top, 0)) {}

  __device__ int run() {
    if (state_.top_k > 0) keep_top_k();
    if (state_.top_p >= 1.0) return draw(mass_from(floor_));
    return draw(listed_ >= 0 ? keep_top_p_of_list() : keep_top_p_of_row());
  }

 private:
  __device__ std::uint64_t value(std::uint64_t key) const {
    return key >= floor_ ? weigh_(score_of(key)) : 0;
  }
  __device__ bool counts(std::uint64_t key) const {
    return key >= floor_ && weigh_.counts(score_of(key));
  }
  // Calls body(source) with the list where there is one.
  template <typename Body>
  __device__ auto over(Body body) {
    return listed_ >= 0 ? body(KeyList{shared_.list, listed_}) : body(row_);
  }
  __device__ std::uint64_t count_candidates() {
    std::uint64_t count = 0;
    row_.each(0, row_.size, [&](std::uint64_t key) { count += counts(key) ? 1 : 0; });
    return block_.sum(count);
  }

  __device__ void keep_top_k() {
    const auto wanted = static_cast<std::uint64_t>(state_.top_k);
    if (wanted >= count_candidates()) return;
    std::uint64_t rough = 0;
    if (state_.top_k <= kThreads) {
      rough = rough_cut(row_, static_cast<int>(state_.top_k));
      listed_ = collect(row_, shared_.list, &shared_.count,
                        [&](std::uint64_t key) { return key >= rough && counts(key); });
    }
    floor_ = over([&](const auto& source) {
      return find_cut(block_, source, rough, high_, wanted,
                      [&](std::uint64_t key) -> std::uint64_t { return counts(key) ? 1 : 0; });
    });
  }

  __device__ std::uint64_t mass_from(std::uint64_t floor) {
    return over([&](const auto& source) {
      std::uint64_t sum = 0;
      source.each(0, 1 << kIdBits,
                  [&](std::uint64_t key) { sum += key >= floor ? value(key) : 0; });
      return block_.sum(sum);
    });
  }

  // The mass that top-p keeps at least.
  __device__ std::uint64_t target_of(std::uint64_t total) const {
    const double wanted = ceil(state_.top_p * static_cast<double>(total));
    const std::uint64_t target = wanted < 1.0 ? 1 : static_cast<std::uint64_t>(wanted);
    return target < total ? target : total;
  }

  // Raises the floor to the cut, which is in [low, high] and in the list; the list's mass from it.
  __device__ std::uint64_t cut_list(std::uint64_t low, std::uint64_t high, std::uint64_t target) {
    const KeyList list{shared_.list, listed_};
    floor_ =
        find_cut(block_, list, low, high, target, [&](std::uint64_t key) { return value(key); });
    return mass_from(floor_);
  }

  __device__ std::uint64_t keep_top_p_of_list() {
    return cut_list(floor_, high_, target_of(mass_from(floor_)));
  }

  __device__ std::uint64_t keep_top_p_of_row() {
    Stretch part = whole_stretch();
    std::uint64_t target = 0;
    while (true) {
      const std::uint32_t width = part.high - part.low;
      climb(part, target);
      const std::uint64_t low = first_key(part.low), high = first_key(part.high);
      if (part.count_from_low <= kListSize) {
        gather(low, ~std::uint64_t{0});
        return cut_list(low, high_, target);
      }
      if (part.count() <= kListSize) {
        gather(low, high);
        const std::uint64_t mass = cut_list(low, high - 1, target - part.mass_from_high);
        listed_ = -1;  // there is more above
        return part.mass_from_high + mass;
      }
      if (part.high - part.low == width) break;  // as many equal scores
    }
    floor_ = find_cut(block_, row_, first_key(part.low), first_key(part.high) - 1, target,
                      [&](std::uint64_t key) { return value(key); });
    return mass_from(floor_);
  }

  __device__ void gather(std::uint64_t low, std::uint64_t high) {
    listed_ = collect(row_, shared_.list, &shared_.count,
                      [&](std::uint64_t key) { return key >= low && key < high && key >= floor_; });
  }

  // Everything that weighs anything: see Weigher.
  __device__ Stretch whole_stretch() const {
    const double top = weigh_.top;
    const double bottom =
        fmax(top - fmin((kWeightless + 0.5) / state_.inverse, -weigh_.least), -3.402823466e+38);
    return {bottom, top, ordered_below(bottom), ordered(weigh_.top) + 1, 0, 0, 0};
  }

  // One pass: the one of kRungs parts of the stretch in which the mass from the top reaches
  // `target`; 0: it is made of the mass of the whole.
  __device__ void climb(Stretch& part, std::uint64_t& target) {
    const double step = (part.end - part.bottom) / kRungs;
    std::uint32_t rungs[kRungs];
    std::uint64_t sums[kRungs + kRungs / 2] = {};  // masses, then counts by twos
#pragma unroll
    for (int i = 0; i < kRungs; ++i) {
      rungs[i] = i == 0 ? part.low : ordered_below(part.bottom + i * step);
    }
    for (int id = thread(); id < row_.size; id += kThreads) {
      const std::uint64_t key = key_of(row_.scores[id], id);
      const auto score = static_cast<std::uint32_t>(key >> kIdBits);
      if (score < part.low || key < floor_) continue;
      const std::uint64_t mass = weigh_(unordered(score));
#pragma unroll
      for (int i = 0; i < kRungs; ++i) {
        sums[i] += score >= rungs[i] ? mass : 0;
        sums[kRungs + i / 2] += score >= rungs[i] ? std::uint64_t{1} << (i % 2 * 32) : 0;
      }
    }
    block_.sums(sums);
    if (target == 0) target = target_of(sums[0]);
    const auto count = [&](int i) {
      return static_cast<std::uint32_t>(sums[kRungs + i / 2] >> (i % 2 * 32));
    };
    Stretch found = part;
#pragma unroll
    for (int i = 0; i < kRungs; ++i) {
      if (sums[i] < target) continue;
      found = part;
      found.bottom = part.bottom + i * step;
      found.low = rungs[i];
      found.count_from_low = count(i);
      if (i + 1 == kRungs) continue;
      found.end = part.bottom + (i + 1) * step;
      found.high = rungs[i + 1];
      found.mass_from_high = sums[i + 1];
      found.count_from_high = count(i + 1);
    }
    part = found;
  }

  // The first id up to which the weights add up to more than the share drawn.
  __device__ int draw(std::uint64_t mass) {
    const double uniform = uniform_draw(state_.seed, static_cast<std::uint64_t>(state_.index));
    auto left = static_cast<std::uint64_t>(uniform * static_cast<double>(mass));
    if (left >= mass) left = mass - 1;
    return listed_ >= 0 ? draw_from_list(left) : draw_from_row(left);
  }

  __device__ int draw_from_list(std::uint64_t left) {
    const KeyList list{shared_.list, listed_};
    int low = 0;
    int high = row_.size - 1;
    while (low < high) {
      const int middle = low + (high - low) / 2;
      std::uint64_t mine = 0;
      list.each(low, middle + 1, [&](std::uint64_t key) { mine += value(key); });
      const std::uint64_t sum = block_.sum(mine);
      if (sum > left) {
        high = middle;
      } else {
        left -= sum;
        low = middle + 1;
      }
    }
    return low;
  }

  // Each warp adds up a part of the ids, until a part is one id.
  __device__ int draw_from_row(std::uint64_t left) {
    std::uint64_t* sums = block_.warp_numbers();
    int low = 0;
    int end = row_.size;
    while (end - low > 1) {
      const int size = (end - low + kWarps - 1) / kWarps;
      const int first = low + thread() / 32 * size;
      const int last = first + size < end ? first + size : end;
      std::uint64_t mine = 0;
      for (int i = first + thread() % 32; i < last; i += 32)
        mine += value(key_of(row_.scores[i], i));
      mine = warp_sum(mine);
      if (thread() % 32 == 0) sums[thread() / 32] = mine;
      __syncthreads();
      int part = 0;
      while (part + 1 < kWarps && sums[part] <= left) left -= sums[part++];
      low += part * size;
      end = low + size < end ? low + size : end;
      __syncthreads();
    }
    return low;
  }

  Block& block_;
  Shared& shared_;
  const RowState& state_;
  WholeRow row_;
  Weigher weigh_;
  std::uint64_t high_;
  std::uint64_t floor_ = 0;  // candidates are at least this good
  int listed_ = -1;          // of them in shared_.list; -1: not gathered
};

}  // namespace moa_rt::cuda::sampling
