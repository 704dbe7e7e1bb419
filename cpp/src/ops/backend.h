// Backend: what a device must be able to do for the decoder. With the DecodeLoop it may give out,
// the only virtual interface of the library.
//
// Contracts and checks live in ops/ops.h; a backend may assume that its arguments have passed them.
// Shapes: M rows (tokens of all sequences of a step, one after the other), H hidden, Hq query
// heads, Hkv KV heads, D head_dim. Activations are float32 on the CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "core/allocator.h"
#include "core/tensor.h"
#include "moa_rt/model_config.h"
#include "moa_rt/types.h"
#include "ops/decode_loop.h"

namespace moa_rt {

// A weight matrix (rows = outputs, cols = inputs) in whatever layout its backend reads fastest.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  DType dtype = DType::kF32;
  Storage storage;

  bool empty() const { return rows == 0; }
};

// Delivers rows [begin, begin + count) of a matrix, row-major, in the matrix's dtype.
using RowReader =
    std::function<void(std::int64_t begin, std::int64_t count, std::span<std::byte> out)>;

// cos and sin of every position: float32 (positions, head_dim / 2) each, rotate-half convention.
struct RopeTable {
  Tensor cos;
  Tensor sin;
};

// One sequence's share of a step: rows [row, row + count) of the activations are its positions
// [position, position + count). cache->length() == position until the step ends.
struct SequenceSlice {
  KVCache* cache = nullptr;
  std::int64_t row = 0;
  std::int64_t count = 0;
  std::int64_t position = 0;
};

// What a row of logits says of one token.
struct RowLogprob {
  float logprob = 0.0f;  // natural log; means nothing beside a fault
  LogitFault fault = LogitFault::kNone;
  std::int32_t faulty = 0;  // the first token at fault, if there is one
};

struct AttentionShape {
  std::int64_t num_query_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t head_dim = 0;
};

// Upper bounds of every step, fixed when the engine opens: a backend sizes its workspaces by them.
struct BackendLimits {
  AttentionShape attention;
  std::int64_t max_rows = 0;       // M
  std::int64_t max_sequences = 0;  // slices in a step
  std::int64_t max_seq_len = 0;
  std::int64_t max_matrix_cols = 0;  // largest K of any matmul
  DType dtype = DType::kF32;         // of matrices and caches
  std::int64_t num_layers = 1;
  std::int64_t vocab = 0;  // columns of the logits; 0: no decode loop is wanted
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device device() const = 0;
  virtual std::string description() const = 0;  // "cpu (avx2, 2 threads)"
  virtual Allocator& allocator() = 0;
  virtual bool supports(DType dtype) const = 0;  // as matrix and cache type
  virtual bool supports_head_dim(std::int64_t head_dim) const = 0;

  // What the device's own runtime takes of its memory beside all that we allocate: its context,
  // our code, libraries.
  virtual std::int64_t runtime_bytes() const { return 0; }
  // Bytes free for this process, now, counting runtime_bytes() as free although some may be taken.
  virtual std::int64_t free_bytes() const = 0;
  // Takes the bytes of up to `blocks` blocks at once, before the first of them is wanted, so that
  // too little memory shows before a weight is read and caches come and go at no cost. Throws
  // ResourceError. Allocations of the host need none of this.
  virtual void set_aside(std::int64_t /*bytes*/, std::int64_t /*blocks*/) {}
  // Throws DeviceError once the device has been lost: nothing works on it any more.
  virtual void check_alive() const {}

  // Workspaces: predicted from the limits, allocated once by reserve().
  virtual std::int64_t workspace_bytes(const BackendLimits& limits) const = 0;
  virtual void reserve(const BackendLimits& limits) = 0;

  virtual std::int64_t matrix_bytes(std::int64_t rows, std::int64_t cols, DType dtype) const = 0;
  virtual Matrix load_matrix(std::int64_t rows, std::int64_t cols, DType dtype,
                             const RowReader& reader) = 0;
  // Host memory to and from tensors of this device.
  virtual void copy_to_device(Tensor& destination, const void* source) = 0;
  virtual void copy_to_host(void* destination, const Tensor& source) = 0;
  // A float32 tensor of this device as host memory, valid until the next call: its own where the
  // host can read it.
  virtual const float* host_floats(const Tensor& x) { return x.data<float>(); }

  // out (M, H) = rows `tokens` of table (vocab, H).
  virtual void embed(const Matrix& table, std::span<const std::int32_t> tokens, Tensor& out) = 0;
  // out (M, H) = x / sqrt(mean(x^2) + eps) * weight. Root mean square layer norm, arXiv 1910.07467.
  // out may be x itself.
  virtual void rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& out) = 0;
  // out (M, N) = x (M, K) @ weight (N, K)^T [+ bias (N)] [+ out]. Bit-equal per row for every M.
  virtual void matmul(const Tensor& x, const Matrix& weight, const Tensor* bias, bool accumulate,
                      Tensor& out) = 0;
  // out (M, I) = silu(gate) * up, gate_up (M, 2I) = [gate | up]. arXiv 2002.05202.
  virtual void silu_mul(const Tensor& gate_up, Tensor& out) = 0;

  // Operations that follow each other, as one: a backend that keeps what lies between on its way
  // need not write it. By default one after the other.
  //
  // out (M, N) = rms_norm(x) @ weight^T [+ bias]. `normed` (M, K) may be written, and may be x.
  struct NormArgs {
    const Tensor* weight = nullptr;  // (K)
    double eps = 0.0;
  };
  virtual void norm_matmul(const Tensor& x, const NormArgs& norm, const Matrix& weight,
                           const Tensor* bias, Tensor& normed, Tensor& out);
  // x (M, K) += (silu(gate) * up) @ down^T with [gate | up] = rms_norm(x) @ gate_up^T. What lies
  // between may be written: normed (M, K), gate_up_rows (M, 2I), gated (M, I).
  struct MlpArgs {
    NormArgs norm;
    const Matrix* gate_up = nullptr;  // (2I, K)
    const Matrix* down = nullptr;     // (K, I)
    Tensor* normed = nullptr;
    Tensor* gate_up_rows = nullptr;
    Tensor* gated = nullptr;
  };
  virtual void mlp(const MlpArgs& args, Tensor& x);

  // qkv (M, (Hq + 2 Hkv) * D), in place: optional RMSNorm of each head of q and k, then RoPE of q
  // and k at absolute positions. Slices of one row then append k and v to their cache (decode:
  // append, then attend).
  struct RopeArgs {
    AttentionShape shape;
    std::int64_t layer = 0;
    std::span<const SequenceSlice> slices;
    const RopeTable* rope = nullptr;
    const Tensor* query_norm = nullptr;  // (D) or nullptr
    const Tensor* key_norm = nullptr;    // (D) or nullptr
    double norm_eps = 0.0;
  };
  virtual void rope_append(const RopeArgs& args, Tensor& qkv) = 0;

  // out (M, Hq * D): attention of every query row over what its KV head keeps, token-exact mask of
  // span.h, scale 1/sqrt(D), float32 softmax. Slices of one row read their cache. Longer slices
  // attend over (cache + slice) and append afterwards (prefill: attend, then append). A sequence's
  // result does not depend on the other slices, bit for bit.
  struct AttentionArgs {
    AttentionShape shape;
    std::int64_t layer = 0;
    std::span<const SequenceSlice> slices;
  };
  virtual void attention(const AttentionArgs& args, const Tensor& qkv, Tensor& out) = 0;

  // out (R, H) = rows `index` of x (M, H).
  virtual void gather_rows(const Tensor& x, std::span<const std::int64_t> index, Tensor& out) = 0;

  // out[r] = log(softmax(logits[r])[tokens[r]]), logits (R, V): R numbers reach the host instead of
  // R * V. Exponentials and their sums in float32 parts, the last step in double. Bit-equal per row
  // for every R.
  virtual void token_logprobs(const Tensor& logits, std::span<const std::int32_t> tokens,
                              std::span<RowLogprob> out) = 0;

  // Decode that stays on the device, after reserve(); nullptr where there is none. The backend and
  // what the model refers to must outlive it.
  virtual std::unique_ptr<DecodeLoop> decode_loop(const DecodeModel&) { return nullptr; }
};

// isa: "auto", "portable", "avx2", "avx512", "avx512_bf16". Throws UnsupportedError if this
// processor lacks it.
std::unique_ptr<Backend> make_cpu_backend(int num_threads, const std::string& isa = "auto");

// Throws DeviceError where the build has no CUDA (cuda/ replaces the stub at link time).
std::unique_ptr<Backend> make_cuda_backend(const Device& device);

}  // namespace moa_rt
