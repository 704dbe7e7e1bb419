// A block of CUDA threads on a CPU: device code compiles as C++, each thread is a fiber, and a
// barrier switches to the next one. For the logic of kernels where there is no GPU; not for races,
// for fibers take turns.
#pragma once

#include <cuda_runtime_api.h>
#include <ucontext.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#undef __device__
#undef __global__
#undef __shared__
#undef __launch_bounds__
#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)

namespace moa_rt::emulated {

class Block {
 public:
  // Calls `body` once for every thread; `threads` is a multiple of 32.
  static void run(unsigned index, int threads, const std::function<void()>& body) {
    Block block(threads, body);
    current_block() = &block;
    block_index().x = index;
    for (bool running = true; running;) {
      running = false;
      for (int i = 0; i < threads; ++i) {
        if (block.fibers_[static_cast<std::size_t>(i)].done) continue;
        block.resume(i);
        running = true;
      }
    }
  }

  struct Index {
    unsigned x = 0;
  };
  static Index& thread_index() {
    static Index index;
    return index;
  }
  static Index& block_index() {
    static Index index;
    return index;
  }
  static Block& now() { return *current_block(); }

  void wait_for_block() { wait(block_); }
  void wait_for_warp() { wait(warps_[thread_index().x / 32]); }

  // What the lane `step` away holds. Two places for values, by turns: a lane may come to the next
  // exchange before another has read from this one.
  std::uint64_t exchange(std::uint64_t value, unsigned step) {
    const unsigned me = thread_index().x;
    std::vector<std::uint64_t>& values = values_[warps_[me / 32].turn % 2];
    values[me] = value;
    wait_for_warp();
    return values[me ^ step];
  }
  int count(bool vote) {
    votes_ += vote ? 1 : 0;
    wait_for_block();
    const int found = votes_;
    wait_for_block();
    votes_ = 0;
    wait_for_block();
    return found;
  }

 private:
  static constexpr std::size_t kStack = 64 << 10;
  struct Fiber {
    ucontext_t context{};
    std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStack);
    bool done = false;
  };
  struct Barrier {
    int size = 0;
    int arrived = 0;
    long turn = 0;
  };

  Block(int threads, const std::function<void()>& body)
      : fibers_(static_cast<std::size_t>(threads)),
        warps_(static_cast<std::size_t>(threads / 32), Barrier{32}),
        block_{threads},
        body_(body) {
    values_.fill(std::vector<std::uint64_t>(static_cast<std::size_t>(threads)));
    for (Fiber& fiber : fibers_) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = &main_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
  }

  static Block*& current_block() {
    static Block* block = nullptr;
    return block;
  }
  static void enter() {
    Block& block = now();
    block.body_();
    block.fibers_[thread_index().x].done = true;
  }
  void resume(int thread) {
    thread_index().x = static_cast<unsigned>(thread);
    swapcontext(&main_, &fibers_[static_cast<std::size_t>(thread)].context);
  }
  void wait(Barrier& barrier) {
    const unsigned me = thread_index().x;
    if (++barrier.arrived == barrier.size) {
      barrier.arrived = 0;
      ++barrier.turn;
      return;
    }
    for (const long turn = barrier.turn; barrier.turn == turn;) {
      swapcontext(&fibers_[me].context, &main_);
    }
  }

  std::vector<Fiber> fibers_;
  std::vector<Barrier> warps_;
  std::array<std::vector<std::uint64_t>, 2> values_;
  int votes_ = 0;
  Barrier block_;
  ucontext_t main_{};
  const std::function<void()>& body_;
};

}  // namespace moa_rt::emulated

#define threadIdx ::moa_rt::emulated::Block::thread_index()
#define blockIdx ::moa_rt::emulated::Block::block_index()

inline void __syncthreads() { moa_rt::emulated::Block::now().wait_for_block(); }
inline void __syncwarp() { moa_rt::emulated::Block::now().wait_for_warp(); }
inline int __syncthreads_count(bool vote) { return moa_rt::emulated::Block::now().count(vote); }
inline std::uint64_t __shfl_xor_sync(unsigned, std::uint64_t value, int step) {
  return moa_rt::emulated::Block::now().exchange(value, static_cast<unsigned>(step));
}
inline int atomicAdd(int* place, int more) {
  const int before = *place;
  *place += more;
  return before;
}
inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __uint_as_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline std::uint64_t __float2ull_rn(float x) {
  return static_cast<std::uint64_t>(std::nearbyint(static_cast<double>(x)));
}
inline float __double2float_rd(double x) {
  const auto near = static_cast<float>(x);
  return static_cast<double>(near) > x ? std::nextafterf(near, -HUGE_VALF) : near;
}

namespace moa_rt::cuda {

using std::isnan;
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline void wait_for_inputs() {}  // nothing starts early here

template <typename Kernel, typename... Args>
void launch(const char*, Kernel kernel, dim3 grid, int threads, int, cudaStream_t, Args... args) {
  for (unsigned block = 0; block < grid.x; ++block) {
    emulated::Block::run(block, threads, [&] { kernel(args...); });
  }
}

}  // namespace moa_rt::cuda
