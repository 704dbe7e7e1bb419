#include "ops/ops.h"

#include <cmath>
#include <string>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {

void Backend::norm_matmul(const Tensor& x, const NormArgs& norm, const Matrix& weight,
                          const Tensor* bias, Tensor& normed, Tensor& out) {
  rms_norm(x, *norm.weight, norm.eps, normed);
  matmul(normed, weight, bias, /*accumulate=*/false, out);
}

void Backend::mlp(const MlpArgs& args, Tensor& x) {
  norm_matmul(x, args.norm, *args.gate_up, nullptr, *args.normed, *args.gate_up_rows);
  silu_mul(*args.gate_up_rows, *args.gated);
  matmul(*args.gated, *args.down, nullptr, /*accumulate=*/true, x);
}

namespace ops {
namespace {

std::string shape_text(const Tensor& tensor) {
  std::string text = dtype_name(tensor.dtype());
  text += " (";
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(tensor.dim(axis));
  }
  return text + ")";
}

// Failures of one operation; the operation is the item of every message.
class Check {
 public:
  explicit Check(const char* op) : op_(op) {}

  [[noreturn]] void fail(const char* field, const std::string& got, const std::string& want) const {
    throw ArgumentError(describe({.item = op_, .field = field, .got = got, .want = want}));
  }
  void matrix(const char* field, const Tensor& tensor, std::int64_t rows, std::int64_t cols) const {
    const bool ok = tensor.rank() == 2 && tensor.dtype() == DType::kF32 && !tensor.empty() &&
                    (rows < 0 || tensor.dim(0) == rows) && (cols < 0 || tensor.dim(1) == cols);
    if (ok) return;
    fail(field, shape_text(tensor), "float32 (" + size(rows) + ", " + size(cols) + ")");
  }
  void vector(const char* field, const Tensor& tensor, std::int64_t count) const {
    const bool ok = tensor.rank() == 1 && tensor.dtype() == DType::kF32 && !tensor.empty() &&
                    tensor.dim(0) == count;
    if (!ok) fail(field, shape_text(tensor), "float32 (" + size(count) + ")");
  }
  void equal(const char* field, std::int64_t got, std::int64_t want) const {
    if (got != want) fail(field, std::to_string(got), std::to_string(want));
  }
  // min <= got < end.
  void range(const char* field, std::int64_t got, std::int64_t min, std::int64_t end) const {
    if (got >= min && got < end) return;
    fail(field, std::to_string(got),
         "a value in [" + std::to_string(min) + ", " + std::to_string(end) + ")");
  }
  void epsilon(double eps) const {
    if (!(eps >= 0.0 && eps < 1.0)) fail("eps", std::to_string(eps), "a value in [0, 1)");
  }

 private:
  static std::string size(std::int64_t n) { return n < 0 ? "any" : std::to_string(n); }
  const char* op_;
};

void check_shape(const Check& check, const AttentionShape& shape) {
  check.range("num_kv_heads", shape.num_kv_heads, 1, 1 << 16);
  check.range("num_query_heads", shape.num_query_heads, 1, 1 << 16);
  check.equal("num_query_heads modulo num_kv_heads", shape.num_query_heads % shape.num_kv_heads, 0);
}

void check_slices(const Check& check, const AttentionShape& shape, std::int64_t layer,
                  std::span<const SequenceSlice> slices, std::int64_t rows) {
  std::int64_t covered = 0;
  for (const SequenceSlice& slice : slices) {
    if (slice.cache == nullptr) check.fail("slice.cache", "none", "a cache");
    const CacheLayout& layout = slice.cache->layout();
    check.range("layer", layer, 0, layout.num_layers());
    check.equal("cache num_kv_heads", layout.num_kv_heads(), shape.num_kv_heads);
    check.equal("cache head_dim", layout.head_dim(), shape.head_dim);
    check.range("slice.count", slice.count, 1, rows + 1);
    check.equal("slice.row", slice.row, covered);
    check.equal("slice.position", slice.position, slice.cache->length());
    covered += slice.count;
  }
  check.equal("rows of all slices", covered, rows);
}

void check_norm(const Check& check, const Tensor& x, const Backend::NormArgs& norm,
                const Tensor& normed) {
  check.matrix("x", x, -1, -1);
  if (norm.weight == nullptr) check.fail("norm.weight", "none", "a tensor");
  check.vector("norm.weight", *norm.weight, x.dim(1));
  check.epsilon(norm.eps);
  check.matrix("normed", normed, x.dim(0), x.dim(1));
}

std::int64_t qkv_width(const AttentionShape& shape) {
  return (shape.num_query_heads + 2 * shape.num_kv_heads) * shape.head_dim;
}

}  // namespace

void embed(Backend& backend, const Matrix& table, std::span<const std::int32_t> tokens,
           Tensor& out) {
  const Check check("embed");
  check.matrix("out", out, static_cast<std::int64_t>(tokens.size()), table.cols);
  for (const std::int32_t token : tokens) check.range("token", token, 0, table.rows);
  backend.embed(table, tokens, out);
}

void rms_norm(Backend& backend, const Tensor& x, const Tensor& weight, double eps, Tensor& out) {
  const Check check("rms_norm");
  check.matrix("x", x, -1, -1);
  check.vector("weight", weight, x.dim(1));
  check.matrix("out", out, x.dim(0), x.dim(1));
  check.epsilon(eps);
  backend.rms_norm(x, weight, eps, out);
}

void matmul(Backend& backend, const Tensor& x, const Matrix& weight, const Tensor* bias,
            bool accumulate, Tensor& out) {
  const Check check("matmul");
  if (weight.empty()) check.fail("weight", "an empty matrix", "a loaded one");
  check.matrix("x", x, -1, weight.cols);
  check.matrix("out", out, x.dim(0), weight.rows);
  if (bias != nullptr) check.vector("bias", *bias, weight.rows);
  if (out.data<float>() == x.data<float>()) check.fail("out", "the memory of x", "its own");
  backend.matmul(x, weight, bias, accumulate, out);
}

void silu_mul(Backend& backend, const Tensor& gate_up, Tensor& out) {
  const Check check("silu_mul");
  check.matrix("out", out, -1, -1);
  check.matrix("gate_up", gate_up, out.dim(0), 2 * out.dim(1));
  backend.silu_mul(gate_up, out);
}

void norm_matmul(Backend& backend, const Tensor& x, const Backend::NormArgs& norm,
                 const Matrix& weight, const Tensor* bias, Tensor& normed, Tensor& out) {
  const Check check("norm_matmul");
  if (weight.empty()) check.fail("weight", "an empty matrix", "a loaded one");
  check.matrix("x", x, -1, weight.cols);
  check_norm(check, x, norm, normed);
  check.matrix("out", out, x.dim(0), weight.rows);
  if (bias != nullptr) check.vector("bias", *bias, weight.rows);
  if (out.data<float>() == x.data<float>()) check.fail("out", "the memory of x", "its own");
  backend.norm_matmul(x, norm, weight, bias, normed, out);
}

void mlp(Backend& backend, const Backend::MlpArgs& args, Tensor& x) {
  const Check check("mlp");
  for (const Matrix* matrix : {args.gate_up, args.down}) {
    if (matrix == nullptr || matrix->empty()) {
      check.fail(matrix == args.gate_up ? "gate_up" : "down", "an empty matrix", "a loaded one");
    }
  }
  const std::int64_t width = args.down->cols;
  check.equal("gate_up.rows", args.gate_up->rows, 2 * width);
  check.equal("down.rows", args.down->rows, args.gate_up->cols);
  check.matrix("x", x, -1, args.gate_up->cols);
  if (args.normed == nullptr || args.gate_up_rows == nullptr || args.gated == nullptr) {
    check.fail("scratch", "none", "normed, gate_up_rows and gated");
  }
  check_norm(check, x, args.norm, *args.normed);
  check.matrix("gate_up_rows", *args.gate_up_rows, x.dim(0), 2 * width);
  check.matrix("gated", *args.gated, x.dim(0), width);
  if (args.normed->data<float>() == x.data<float>()) {
    check.fail("normed", "the memory of x", "its own");
  }
  backend.mlp(args, x);
}

void rope_append(Backend& backend, const Backend::RopeArgs& args, Tensor& qkv) {
  const Check check("rope_append");
  check_shape(check, args.shape);
  check.matrix("qkv", qkv, -1, qkv_width(args.shape));
  check_slices(check, args.shape, args.layer, args.slices, qkv.dim(0));
  if (args.rope == nullptr) check.fail("rope", "none", "a table");
  check.matrix("rope.cos", args.rope->cos, -1, args.shape.head_dim / 2);
  check.matrix("rope.sin", args.rope->sin, args.rope->cos.dim(0), args.shape.head_dim / 2);
  for (const SequenceSlice& slice : args.slices) {
    check.range("last position", slice.position + slice.count - 1, 0, args.rope->cos.dim(0));
  }
  if (args.query_norm != nullptr) check.vector("query_norm", *args.query_norm, args.shape.head_dim);
  if (args.key_norm != nullptr) check.vector("key_norm", *args.key_norm, args.shape.head_dim);
  check.epsilon(args.norm_eps);
  backend.rope_append(args, qkv);
}

void attention(Backend& backend, const Backend::AttentionArgs& args, const Tensor& qkv,
               Tensor& out) {
  const Check check("attention");
  check_shape(check, args.shape);
  check.matrix("qkv", qkv, -1, qkv_width(args.shape));
  check.matrix("out", out, qkv.dim(0), args.shape.num_query_heads * args.shape.head_dim);
  check_slices(check, args.shape, args.layer, args.slices, qkv.dim(0));
  backend.attention(args, qkv, out);
}

void gather_rows(Backend& backend, const Tensor& x, std::span<const std::int64_t> index,
                 Tensor& out) {
  const Check check("gather_rows");
  check.matrix("x", x, -1, -1);
  check.matrix("out", out, static_cast<std::int64_t>(index.size()), x.dim(1));
  for (const std::int64_t row : index) check.range("row", row, 0, x.dim(0));
  backend.gather_rows(x, index, out);
}

void token_logprobs(Backend& backend, const Tensor& logits, std::span<const std::int32_t> tokens,
                    std::span<RowLogprob> out) {
  const Check check("token_logprobs");
  check.matrix("logits", logits, -1, -1);
  check.equal("tokens", static_cast<std::int64_t>(tokens.size()), logits.dim(0));
  check.equal("out", static_cast<std::int64_t>(out.size()), logits.dim(0));
  for (const std::int32_t token : tokens) check.range("token", token, 0, logits.dim(1));
  backend.token_logprobs(logits, tokens, out);
}

}  // namespace ops
}  // namespace moa_rt
