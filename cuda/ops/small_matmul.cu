// Products of a few rows, bound by reading the weights once.
//
// One block an SM walks over tiles of sixteen weight rows. Its eight warps split k; each streams
// its share through shared memory in a pipeline of its own that runs on from tile to tile and
// begins while the kernel before still runs: weights wait for nobody. The inputs are rounded once a
// block, normed on the way where that is wanted. What follows the stages is not asked for ahead of
// time: towards the L2 cache that has been measured slower (1 to 3 % of a decode step).
//
// The order of k inside a fragment is free as long as both operands agree on it, so every lane
// takes eight neighbouring weights with one 16-byte load: its share of two matrix steps. The warps'
// sums are added in order of warp; a row's result does not depend on the other rows.
#include "cuda/device/copy.cuh"
#include "cuda/device/dependency.cuh"
#include "cuda/device/dispatch.h"
#include "cuda/device/mma.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/ops/ops.h"
#include "cuda/ops/row_math.cuh"
#include "cuda/runtime/launch.h"

namespace moa_rt::cuda {
namespace small {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kOutputs = 16;  // weight rows of a tile
constexpr int kBlock = 64;    // k of a stage: 128 bytes a row
constexpr int kStride = kWarps * kBlock;
constexpr int kStageBytes = kOutputs * kBlock * 2;
constexpr int kColumns = kMaxSmallRows;  // of the matrix tile
constexpr int kSumBytes = 2 * kWarps * kOutputs * kColumns * 4;
constexpr int kScratchBytes = kColumns * kWarps * 4;
static_assert(kColumns == 8 && kThreads == kNormThreads);

struct Args {
  const float* x;  // (rows, inputs)
  const float* norm;
  const void* weight;
  const float* bias;
  float* out;
  float eps;
  int rows;
  int inputs;
  int outputs;  // columns of out
  int tiles;
  int x_pitch;  // bytes of a row of the inputs in shared memory
  bool gated;
  bool accumulate;
};

// Between rows of inputs: a whole number of stages, and 64 bytes so that two rows differ in banks.
__host__ __device__ constexpr std::int64_t pitch_of(std::int64_t inputs) {
  return (inputs + kBlock - 1) / kBlock * (kBlock * 2) + 64;
}

template <int Stages>
constexpr int fixed_bytes() {
  return kWarps * Stages * kStageBytes + kSumBytes + kScratchBytes;
}

__device__ uint4 load_shared(std::uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// One warp's weights on their way: blocks warp, warp + 8, ... of k of every tile of the block. A
// gated tile is eight rows of the gate and the same eight of what it multiplies.
template <typename T, int Stages>
class WeightStream {
 public:
  __device__ WeightStream(const Args& args, std::byte* shared)
      : args_(args),
        stages_(shared_address(shared) + warp() * Stages * kStageBytes),
        tile_(static_cast<int>(blockIdx.x)) {
    const std::int64_t inputs = args.inputs;
    second_ = 4 * inputs;
    lower_ = args.gated ? inputs * args.outputs : 8 * inputs;
    begin_tile();
#pragma unroll
    for (int stage = 0; stage < Stages - 1; ++stage) fetch();
  }

  // Waits for the next stage and starts a further one; returns its address.
  __device__ std::uint32_t next() {
    wait_copies<Stages - 2>();
    __syncwarp();
    fetch();
    const std::uint32_t stage = stages_ + static_cast<std::uint32_t>(read_ * kStageBytes);
    read_ = read_ + 1 == Stages ? 0 : read_ + 1;
    return stage;
  }

 private:
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }

  __device__ void begin_tile() {
    k_ = warp() * kBlock;
    const int first = tile_ * (args_.gated ? kOutputs / 2 : kOutputs) + lane() / 8;
    left_ = args_.outputs - first;
    source_ = static_cast<const T*>(args_.weight) +
              static_cast<std::int64_t>(first) * args_.inputs + lane() % 8 * 8;
  }

  __device__ void fetch() {
    while (k_ >= args_.inputs && tile_ < args_.tiles) {
      tile_ += static_cast<int>(gridDim.x);
      begin_tile();
    }
    if (tile_ < args_.tiles) {
      const bool inside = k_ + lane() % 8 * 8 < args_.inputs;
      const std::uint32_t stage = stages_ + static_cast<std::uint32_t>(write_ * kStageBytes);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i * 4 + lane() / 8;
        const bool valid = inside && left_ > (args_.gated ? i % 2 : i) * 4;
        const T* from = source_ + k_ + (i % 2) * second_ + (i / 2) * lower_;
        const int chunk = lane() % 8 ^ (row & 1) << 2;
        copy_async_16(stage + static_cast<std::uint32_t>(row * 128 + chunk * 16), from, valid);
      }
    }
    commit_copies();  // also where there is nothing left, so that the count of groups stays right
    k_ += kStride;
    write_ = write_ + 1 == Stages ? 0 : write_ + 1;
  }

  const Args& args_;
  std::uint32_t stages_;
  int tile_;
  int k_ = 0;
  int left_ = 0;  // outputs from this lane's first row on
  int read_ = 0;
  int write_ = 0;
  std::int64_t second_;  // to the fourth row of a half of a tile
  std::int64_t lower_;   // to the lower half
  const T* source_ = nullptr;
};

// The scales of all rows' norms, of all threads.
template <int Rows>
__device__ void norm_scales(const Args& args, float* scratch, float (&scale)[Rows]) {
  const int thread = static_cast<int>(threadIdx.x);
  const int vectors = args.inputs / 4;
  const auto* const x = reinterpret_cast<const float4*>(args.x);
  float squares[Rows] = {};
#pragma unroll 8 / Rows
  for (int i = thread; i < vectors; i += kThreads) {
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
      if (r < args.rows) squares[r] = add_squares(squares[r], x[r * vectors + i]);
    }
  }
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const float sum = sum_lanes(squares[r]);
    if (thread % 32 == 0) scratch[r * kWarps + thread / 32] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const float sum = sum_lanes(thread % 32 < kWarps ? scratch[r * kWarps + thread % 32] : 0.0f);
    scale[r] = norm_scale(sum, args.inputs, args.eps);
  }
}

// Rows of x, normed if asked for, rounded to T, zeros beyond their end. A thread's loads all start
// before its first store, which the compiler may not move them across.
template <typename T, int Rows>
__device__ void round_inputs(const Args& args, std::byte* target, float* scratch) {
  constexpr int kUnroll = Rows == 1 ? 8 : 16 / Rows;
  const int vectors = args.inputs / 4;
  const int padded = (args.x_pitch - 64) / 8;
  const auto* const x = reinterpret_cast<const float4*>(args.x);
  const auto* const norm = reinterpret_cast<const float4*>(args.norm);
  float scale[Rows] = {};
  if (norm != nullptr) norm_scales<Rows>(args, scratch, scale);
  for (int first = static_cast<int>(threadIdx.x); first < padded; first += kUnroll * kThreads) {
    float4 values[kUnroll][Rows];
    float4 weights[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = first + u * kThreads;
      weights[u] = norm != nullptr && i < vectors ? norm[i] : float4{};
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        values[u][r] = i < vectors && r < args.rows ? x[r * vectors + i] : float4{};
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = first + u * kThreads;
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        if (i >= padded || r >= args.rows) continue;
        const float4 v = values[u][r];
        store(reinterpret_cast<T*>(target + r * args.x_pitch) + i * 4,
              norm != nullptr ? normed(v, scale[r], weights[u]) : v);
      }
    }
  }
}

template <typename T>
__device__ void round_inputs(const Args& args, std::byte* target, float* scratch) {
  if (args.rows == 1) return round_inputs<T, 1>(args, target, scratch);
  if (args.rows == 2) return round_inputs<T, 2>(args, target, scratch);
  if (args.rows <= 4) return round_inputs<T, 4>(args, target, scratch);
  return round_inputs<T, kColumns>(args, target, scratch);
}

// This warp's share of a tile: weight rows lane / 4 and lane / 4 + 8, columns 2 (lane % 4) and the
// next.
template <typename T, int Stages>
__device__ void sum_share(const Args& args, WeightStream<T, Stages>& stream, std::uint32_t x_shared,
                          float (&sum)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row = lane / 4;
  for (int k = warp * kBlock; k < args.inputs; k += kStride) {
    const std::uint32_t stage = stream.next();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int chunk = (half * 4 + lane % 4) ^ (row & 1) << 2;
      const std::uint32_t at = stage + static_cast<std::uint32_t>(row * 128 + chunk * 16);
      uint4 x = {};
      if (row < args.rows) {
        x = load_shared(x_shared + static_cast<std::uint32_t>(row * args.x_pitch +
                                                              (k + half * 32 + lane % 4 * 8) * 2));
      }
      const uint4 upper = load_shared(at);
      const uint4 lower = load_shared(at + 8 * 128);
      mma<T>(sum, {upper.x, lower.x, upper.y, lower.y}, x.x, x.y);
      mma<T>(sum, {upper.z, lower.z, upper.w, lower.w}, x.z, x.w);
    }
  }
}

// The warps' shares of one tile, added in order. `sums`: (kWarps, kOutputs, kColumns).
__device__ void finish_tile(const Args& args, int tile, const float (&share)[4], float* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  const int outputs = args.gated ? kOutputs / 2 : kOutputs;
  const int output = thread % outputs;  // neighbouring threads write neighbours of one row
  const int row = thread / outputs;
  const int column = tile * outputs + output;
  const bool writes = row < args.rows && column < args.outputs;
  float* const target = args.out + static_cast<std::int64_t>(row) * args.outputs + column;
  float total = 0.0f;
  if (writes && args.bias != nullptr) total = args.bias[column];
  if (writes && args.accumulate) total += *target;

  const int lane = thread % 32;
  float* const mine = sums + (thread / 32 * kOutputs + lane / 4) * kColumns + lane % 4 * 2;
  *reinterpret_cast<float2*>(mine) = {share[0], share[1]};
  *reinterpret_cast<float2*>(mine + 8 * kColumns) = {share[2], share[3]};
  __syncthreads();
  if (!writes) return;
  const auto sum_of = [&](int index, float start) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) start += sums[(w * kOutputs + index) * kColumns + row];
    return start;
  };
  if (args.gated) {
    *target = silu_times(sum_of(output, 0.0f), sum_of(output + kOutputs / 2, 0.0f));
  } else {
    *target = sum_of(output, total);
  }
}

template <typename T, int Stages>
__global__ void __launch_bounds__(kThreads, 1) multiply(Args args) {
  extern __shared__ __align__(128) std::byte shared[];
  std::byte* const sums = shared + kWarps * Stages * kStageBytes;
  std::byte* const scratch = sums + kSumBytes;
  std::byte* const x = scratch + kScratchBytes;
  let_next_start();
  WeightStream<T, Stages> stream(args, shared);
  if (args.norm != nullptr && static_cast<int>(threadIdx.x) * 32 < args.inputs) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(args.norm + threadIdx.x * 32));
  }
  wait_for_inputs();
  round_inputs<T>(args, x, reinterpret_cast<float*>(scratch));
  __syncthreads();
  const std::uint32_t x_shared = shared_address(x);
  int side = 0;  // of the sums: while one tile's are added the next one's are written
  for (int tile = static_cast<int>(blockIdx.x); tile < args.tiles;
       tile += static_cast<int>(gridDim.x), side ^= 1) {
    float share[4] = {};
    sum_share(args, stream, x_shared, share);
    finish_tile(args, tile, share, reinterpret_cast<float*>(sums) + side * (kSumBytes / 8));
  }
}

struct DeviceLimits {
  int processors = device_attribute(cudaDevAttrMultiProcessorCount);
  int shared_bytes = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);  // of a block
};

// Calls body with the number of stages, as many as fit beside the inputs.
template <typename Body>
void dispatch_stages(const DeviceLimits& limits, std::int64_t x_bytes, Body&& body) {
  const std::int64_t room = limits.shared_bytes - x_bytes;
  if (fixed_bytes<10>() <= room) return body(std::integral_constant<int, 10>{});
  if (fixed_bytes<6>() <= room) return body(std::integral_constant<int, 6>{});
  if (fixed_bytes<4>() <= room) return body(std::integral_constant<int, 4>{});
  throw InternalError("cuda: a small product with too many inputs");
}

}  // namespace
}  // namespace small

bool small_matmul_takes(std::int64_t rows, std::int64_t inputs) {
  return rows <= kMaxSmallRows && inputs % 8 == 0 &&
         small::fixed_bytes<4>() + rows * small::pitch_of(inputs) <=
             small::DeviceLimits().shared_bytes;
}

void launch_small_matmul(const SmallMatmul& product, cudaStream_t stream) {
  const small::DeviceLimits limits;
  const std::int64_t pitch = small::pitch_of(product.inputs);
  const std::int64_t tile = product.gated ? small::kOutputs / 2 : small::kOutputs;
  const std::int64_t tiles = (product.outputs + tile - 1) / tile;
  const std::int64_t rounds = (tiles + limits.processors - 1) / limits.processors;
  const small::Args args{.x = product.x,
                         .norm = product.norm,
                         .weight = product.weight,
                         .bias = product.bias,
                         .out = product.out,
                         .eps = product.eps,
                         .rows = static_cast<int>(product.rows),
                         .inputs = static_cast<int>(product.inputs),
                         .outputs = static_cast<int>(product.outputs),
                         .tiles = static_cast<int>(tiles),
                         .x_pitch = static_cast<int>(pitch),
                         .gated = product.gated,
                         .accumulate = product.accumulate};
  dispatch_dtype(product.dtype, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    small::dispatch_stages(limits, product.rows * pitch, [&](auto stages) {
      constexpr int kStages = decltype(stages)::value;
      const auto bytes = static_cast<int>(small::fixed_bytes<kStages>() + product.rows * pitch);
      const auto kernel = small::multiply<T, kStages>;
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "small matmul: shared memory");
      launch("small matmul", kernel, dim3(static_cast<unsigned>((tiles + rounds - 1) / rounds)),
             small::kThreads, static_cast<std::size_t>(bytes), stream, args);
    });
  });
}

}  // namespace moa_rt::cuda
