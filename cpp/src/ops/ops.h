// The operations of the decoder: what each one takes and gives, checked once, then one call of the
// backend. Shapes: M rows, H hidden, K inputs, N outputs, I intermediate, D head_dim. Tensors are
// float32 and row-major. Every function throws ArgumentError, naming the operation, the argument,
// what it got and what it wants, before anything is written.
#pragma once

#include <cstdint>
#include <span>

#include "ops/backend.h"

namespace moa_rt::ops {

// out (M, H) = rows `tokens` of table (vocab, H). Every token in [0, vocab).
void embed(Backend& backend, const Matrix& table, std::span<const std::int32_t> tokens,
           Tensor& out);

// out (M, H) = x / sqrt(mean(x^2) + eps) * weight (H). out may be x. arXiv 1910.07467.
void rms_norm(Backend& backend, const Tensor& x, const Tensor& weight, double eps, Tensor& out);

// out (M, N) = x (M, K) @ weight (N, K)^T [+ bias (N)] [+ out]. Bit-equal per row for every M.
void matmul(Backend& backend, const Tensor& x, const Matrix& weight, const Tensor* bias,
            bool accumulate, Tensor& out);

// out (M, I) = silu(gate) * up of gate_up (M, 2I) = [gate | up]. arXiv 2002.05202.
void silu_mul(Backend& backend, const Tensor& gate_up, Tensor& out);

// out (M, N) = rms_norm(x) (M, K) @ weight (N, K)^T [+ bias (N)]. normed (M, K) is scratch and may
// be x.
void norm_matmul(Backend& backend, const Tensor& x, const Backend::NormArgs& norm,
                 const Matrix& weight, const Tensor* bias, Tensor& normed, Tensor& out);

// x (M, K) += (silu(gate) * up) @ down^T, [gate | up] = rms_norm(x) @ gate_up^T; scratch as in
// Backend::MlpArgs.
void mlp(Backend& backend, const Backend::MlpArgs& args, Tensor& x);

// Optional norm of each head of q and k, then RoPE at absolute positions, in place in
// qkv (M, (Hq + 2 Hkv) * D); slices of one row append k and v to their cache.
void rope_append(Backend& backend, const Backend::RopeArgs& args, Tensor& qkv);

// out (M, Hq * D) = attention under the mask of span.h; slices of more than one row append to their
// cache afterwards.
void attention(Backend& backend, const Backend::AttentionArgs& args, const Tensor& qkv,
               Tensor& out);

// out (R, H) = rows `index` of x (M, H). Every index in [0, M).
void gather_rows(Backend& backend, const Tensor& x, std::span<const std::int64_t> index,
                 Tensor& out);

// out[r] = log(softmax(logits[r])[tokens[r]]) of logits (R, V), in host memory. Every token in
// [0, V). A row with NaN, +inf or nothing but -inf has its fault instead (L1, L2).
void token_logprobs(Backend& backend, const Tensor& logits, std::span<const std::int32_t> tokens,
                    std::span<RowLogprob> out);

}  // namespace moa_rt::ops
