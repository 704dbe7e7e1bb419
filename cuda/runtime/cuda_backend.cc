#include "cuda/runtime/cuda_backend.h"

#include <algorithm>
#include <array>

#include "core/message.h"
#include "cuda/attention/attention.h"
#include "cuda/ops/ops.h"
#include "cuda/runtime/device_check.h"
#include "cuda/runtime/device_memory.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace cuda {
namespace {

constexpr std::int64_t kUploadBytes = std::int64_t{8} << 20;
constexpr std::int64_t kLoadBlockBytes = std::int64_t{16} << 20;

const float* data_or_null(const Tensor* x) { return x == nullptr ? nullptr : x->data<float>(); }

AttentionDims dims_of(const AttentionShape& shape) {
  return {.query_heads = static_cast<std::int32_t>(shape.num_query_heads),
          .kv_heads = static_cast<std::int32_t>(shape.num_kv_heads),
          .head_dim = static_cast<std::int32_t>(shape.head_dim)};
}

}  // namespace

CudaBackend::CudaBackend(const Device& device)
    : description_(judge_device(device, ask_device(device))),
      allocator_(device.index),
      guard_(std::in_place, context()),
      stream_(make_stream()),
      uploader_(kUploadBytes, stream_.get()),
      blas_(context()) {
  guard_.reset();
}

// What still runs must not outlive its memory; a lost device has nothing running.
CudaBackend::~CudaBackend() {
  guard_.emplace(context(), std::nothrow);
  cudaStreamSynchronize(stream_.get());
}

bool CudaBackend::supports_head_dim(std::int64_t head_dim) const {
  return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128;
}

std::int64_t CudaBackend::free_bytes() const { return free_device_bytes(context()); }

std::int64_t CudaBackend::runtime_bytes() const { return device_runtime_bytes(); }

void CudaBackend::set_aside(std::int64_t bytes, std::int64_t blocks) {
  allocator_.set_aside(bytes, blocks);
}

void CudaBackend::check_alive() const { check_device_alive(device(), context(), stream_.get()); }

std::int64_t CudaBackend::slots(const BackendLimits& limits) const {
  const DeviceGuard guard(context());
  return decode_slots(limits.dtype, static_cast<std::int32_t>(limits.attention.head_dim));
}

std::int64_t CudaBackend::workspace_bytes(const BackendLimits& limits) const {
  const WorkspaceLayout workspace(limits, slots(limits));
  return workspace.total_bytes +
         (workspace.has_loop ? LoopLayout(limits, workspace).bytes_with_padding() : 0);
}

void CudaBackend::reserve(const BackendLimits& limits) {
  const DeviceGuard guard(context());
  const std::int64_t group = limits.attention.num_query_heads / limits.attention.num_kv_heads;
  if (group > kPrefillTileRows) {
    throw UnsupportedError(describe({.item = "cuda",
                                     .field = "query heads of a KV head",
                                     .got = std::to_string(group),
                                     .want = "at most " + std::to_string(kPrefillTileRows)}));
  }
  const std::int64_t slots = this->slots(limits);
  check(cudaStreamSynchronize(stream_.get()), "reserve");
  tables_.reset();
  workspace_.reset();
  limits_ = limits;
  layout_.emplace(limits, slots);
  workspace_ = Storage(allocator_, layout_->total_bytes);
  check(cudaMemsetAsync(workspace_.data() + layout_->counters, 0,
                        static_cast<std::size_t>(layout_->max_partials * 4), stream_.get()),
        "reserve");
  tables_.emplace(*layout_, workspace_.data(), slots, uploader_);
}

StepTables& CudaBackend::tables() {
  if (!tables_) throw InternalError("cuda: used before reserve");
  return *tables_;
}

std::int64_t CudaBackend::matrix_bytes(std::int64_t rows, std::int64_t cols, DType dtype) const {
  return rows * cols * size_of(dtype);
}

// Through two page-locked blocks: one is read from the file while the other travels.
Matrix CudaBackend::load_matrix(std::int64_t rows, std::int64_t cols, DType dtype,
                                const RowReader& reader) {
  const DeviceGuard guard(context());
  Matrix matrix{.rows = rows,
                .cols = cols,
                .dtype = dtype,
                .storage = Storage(allocator_, matrix_bytes(rows, cols, dtype))};
  const std::int64_t row_bytes = cols * size_of(dtype);
  const std::int64_t block_rows =
      std::min(rows, std::max<std::int64_t>(kLoadBlockBytes / row_bytes, 1));
  const std::int64_t block_bytes = block_rows * row_bytes;
  const PinnedBuffer buffer(2 * block_bytes);
  const std::array<Event, 2> sent = {make_event(), make_event()};
  const StreamWait wait(stream_.get());  // the reader may throw while the other block travels
  std::size_t side = 0;
  for (std::int64_t row = 0; row < rows; row += block_rows, side ^= 1) {
    const std::int64_t count = std::min(block_rows, rows - row);
    const auto bytes = static_cast<std::size_t>(count * row_bytes);
    std::byte* block = buffer.data() + static_cast<std::int64_t>(side) * block_bytes;
    check(cudaEventSynchronize(sent[side].get()), "load matrix");
    reader(row, count, {block, bytes});
    check(cudaMemcpyAsync(matrix.storage.data() + row * row_bytes, block, bytes,
                          cudaMemcpyHostToDevice, stream_.get()),
          "load matrix");
    check(cudaEventRecord(sent[side].get(), stream_.get()), "load matrix");
  }
  check(cudaStreamSynchronize(stream_.get()), "load matrix");
  return matrix;
}

void CudaBackend::copy_to_device(Tensor& destination, const void* source) {
  const DeviceGuard guard(context());
  check(cudaMemcpyAsync(destination.data<void>(), source,
                        static_cast<std::size_t>(destination.bytes()), cudaMemcpyHostToDevice,
                        stream_.get()),
        "copy to device");
  check(cudaStreamSynchronize(stream_.get()), "copy to device");
}

void CudaBackend::copy_to_host(void* destination, const Tensor& source) {
  const DeviceGuard guard(context());
  check(cudaMemcpyAsync(destination, source.data<void>(), static_cast<std::size_t>(source.bytes()),
                        cudaMemcpyDeviceToHost, stream_.get()),
        "copy to host");
  check(cudaStreamSynchronize(stream_.get()), "copy to host");
}

const float* CudaBackend::host_floats(const Tensor& x) {
  const DeviceGuard guard(context());
  if (read_back_.bytes() < x.bytes()) read_back_ = PinnedBuffer(x.bytes());
  copy_to_host(read_back_.data(), x);
  return reinterpret_cast<const float*>(read_back_.data());
}

void CudaBackend::embed(const Matrix& table, std::span<const std::int32_t> tokens, Tensor& out) {
  const DeviceGuard guard(context());
  const std::int32_t* ids = nullptr;
  if (loop_ != nullptr) {
    ids = loop_->tables().tokens();
  } else {
    auto* const uploaded = workspace<std::int32_t>(tables().layout().tokens);
    uploader_.upload(uploaded, tokens.data(), static_cast<std::int64_t>(tokens.size_bytes()));
    ids = uploaded;
  }
  launch_embed(table.storage.data(), table.dtype, ids, out.dim(0), table.cols, out.data<float>(),
               stream_.get());
}

void CudaBackend::rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& out) {
  const DeviceGuard guard(context());
  launch_rms_norm(x.data<float>(), weight.data<float>(), static_cast<float>(eps), x.dim(0),
                  x.dim(1), out.data<float>(), stream_.get());
}

void CudaBackend::silu_mul(const Tensor& gate_up, Tensor& out) {
  const DeviceGuard guard(context());
  launch_silu_mul(gate_up.data<float>(), out.dim(0), out.dim(1), out.data<float>(), stream_.get());
}

void CudaBackend::rope_append(const RopeArgs& args, Tensor& qkv) {
  const DeviceGuard guard(context());
  RopeKernelArgs launch{.dims = dims_of(args.shape),
                        .dtype = limits_.dtype,
                        .rows = static_cast<std::int32_t>(qkv.dim(0)),
                        .cos = args.rope->cos.data<float>(),
                        .sin = args.rope->sin.data<float>(),
                        .query_norm = data_or_null(args.query_norm),
                        .key_norm = data_or_null(args.key_norm),
                        .norm_eps = static_cast<float>(args.norm_eps),
                        .qkv = qkv.data<float>()};
  if (loop_ != nullptr) {
    const LoopTables& tables = loop_->tables();
    launch.positions = tables.positions();
    launch.row_slices = tables.row_slices();
    launch.segments = tables.segments(args.layer);
    launch.stride = tables.stride();
    launch.kept = tables.kept(args.layer);
  } else {
    StepTables& tables = this->tables();
    tables.set_rows(args.slices);
    launch.positions = workspace<std::int32_t>(layout_->positions);
    launch.row_slices = workspace<std::int32_t>(layout_->row_slices);
    launch.segments = tables.layer(args.shape, args.layer, args.slices).segments;
    launch.stride = args.shape.num_kv_heads;
  }
  launch_rope_append(launch, stream_.get());
}

void CudaBackend::attention(const AttentionArgs& args, const Tensor& qkv, Tensor& out) {
  const DeviceGuard guard(context());
  if (loop_ != nullptr) {
    decode_recorded(args, qkv, out);
    return;
  }
  StepTables& tables = this->tables();
  tables.set_rows(args.slices);
  const StepTables::Layer layer = tables.layer(args.shape, args.layer, args.slices);
  decode(args, layer, qkv, out);
  const auto longer = [](const SequenceSlice& slice) { return slice.count > 1; };
  if (std::ranges::any_of(args.slices, longer)) prefill(args, layer, qkv, out);
}

DecodeArgs CudaBackend::decode_args(const AttentionArgs& args, const Tensor& qkv,
                                    Tensor& out) const {
  return {.dims = dims_of(args.shape),
          .dtype = limits_.dtype,
          .positions = workspace<std::int32_t>(layout_->positions),
          .qkv = qkv.data<float>(),
          .out = out.data<float>(),
          .partial_sums = workspace<float>(layout_->partial_sums),
          .partial_states = workspace<float>(layout_->partial_states),
          .counters = workspace<std::int32_t>(layout_->counters)};
}

void CudaBackend::decode(const AttentionArgs& args, const StepTables::Layer& layer,
                         const Tensor& qkv, Tensor& out) {
  DecodeArgs launch_args = decode_args(args, qkv, out);
  for (const DecodeLaunch& launch : layer.launches) {
    launch_args.items = layer.decode + launch.first;
    launch_args.num_items = static_cast<std::int32_t>(launch.count);
    launch_decode_attention(launch_args, stream_.get());
  }
}

void CudaBackend::decode_recorded(const AttentionArgs& args, const Tensor& qkv, Tensor& out) {
  const LoopTables& tables = loop_->tables();
  DecodeArgs launch_args = decode_args(args, qkv, out);
  launch_args.positions = tables.positions();
  for (std::int64_t launch = 0; launch < tables.launches(qkv.dim(0)); ++launch) {
    launch_args.items = tables.items(args.layer, launch);
    launch_args.num_items = tables.item_count(args.layer, launch);
    launch_decode_attention(launch_args, stream_.get());
    loop_->launched_attention(launch_args, args.layer, launch);
  }
}

// Attend over cache and chunk, then append: the chunk may overwrite slots its first queries need.
void CudaBackend::prefill(const AttentionArgs& args, const StepTables::Layer& layer,
                          const Tensor& qkv, Tensor& out) {
  const AttentionDims dims = dims_of(args.shape);
  const auto rows = static_cast<std::int32_t>(qkv.dim(0));
  const StagedChunk chunk{.queries = workspace<void>(layout_->chunk_queries),
                          .keys = workspace<void>(layout_->chunk_keys),
                          .values = workspace<void>(layout_->chunk_values)};
  const auto* const items = workspace<PrefillItem>(layout_->prefill_items);
  const auto count = static_cast<std::int32_t>(tables().set_prefill(args.shape));
  launch_stage_chunk(dims, limits_.dtype, qkv.data<float>(), rows, chunk, stream_.get());
  launch_prefill_attention({.dims = dims,
                            .dtype = limits_.dtype,
                            .segments = layer.segments,
                            .items = items,
                            .num_items = count,
                            .rows = rows,
                            .chunk = chunk,
                            .out = out.data<float>()},
                           stream_.get());
  launch_append_chunk({.dims = dims,
                       .segments = layer.segments,
                       .items = items,
                       .num_items = count,
                       .rows = rows,
                       .chunk = chunk},
                      stream_.get());
}

void CudaBackend::gather_rows(const Tensor& x, std::span<const std::int64_t> index, Tensor& out) {
  const DeviceGuard guard(context());
  const std::int64_t* rows = nullptr;
  if (loop_ != nullptr) {
    rows = loop_->tables().row_index();
  } else {
    auto* const uploaded = workspace<std::int64_t>(tables().layout().row_index);
    uploader_.upload(uploaded, index.data(), static_cast<std::int64_t>(index.size_bytes()));
    rows = uploaded;
  }
  launch_gather_rows(x.data<float>(), rows, out.dim(0), x.dim(1), out.data<float>(), stream_.get());
}

void CudaBackend::token_logprobs(const Tensor& logits, std::span<const std::int32_t> tokens,
                                 std::span<RowLogprob> out) {
  if (out.empty()) return;
  const DeviceGuard guard(context());
  auto* const ids = workspace<std::int32_t>(tables().layout().targets);
  auto* const results = workspace<RowLogprob>(tables().layout().logprobs);
  uploader_.upload(ids, tokens.data(), static_cast<std::int64_t>(tokens.size_bytes()));
  launch_token_logprobs(logits.data<float>(), ids, logits.dim(0), logits.dim(1), results,
                        stream_.get());
  check(
      cudaMemcpyAsync(out.data(), results, out.size_bytes(), cudaMemcpyDeviceToHost, stream_.get()),
      "token_logprobs");
  check(cudaStreamSynchronize(stream_.get()), "token_logprobs");
}

std::unique_ptr<DecodeLoop> CudaBackend::decode_loop(const DecodeModel& model) {
  if (!layout_ || !layout_->has_loop) return nullptr;
  return std::make_unique<CudaDecodeLoop>(*this, limits_, *layout_, slots(limits_), model);
}

}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const Device& device) {
  return std::make_unique<cuda::CudaBackend>(device);
}

}  // namespace moa_rt
