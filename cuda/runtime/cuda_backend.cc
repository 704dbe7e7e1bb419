#include "cuda/runtime/cuda_backend.h"

#include <algorithm>
#include <array>

#include "core/message.h"
#include "cuda/attention/attention.h"
#include "cuda/ops/ops.h"
#include "moa_rt/error.h"

namespace moa_rt {
namespace cuda {
namespace {

constexpr std::int64_t kUploadBytes = std::int64_t{8} << 20;
constexpr std::int64_t kLoadBlockBytes = std::int64_t{16} << 20;
constexpr std::int64_t kSmallRows =
    8;                           // our own product is 1 to 20 % faster than cuBLASLt up to here
constexpr int kOldestMajor = 8;  // bf16 matrix units and asynchronous copies

AttentionDims dims_of(const AttentionShape& shape) {
  return {.query_heads = static_cast<std::int32_t>(shape.num_query_heads),
          .kv_heads = static_cast<std::int32_t>(shape.num_kv_heads),
          .head_dim = static_cast<std::int32_t>(shape.head_dim)};
}

// G14: what is wrong with the device is said before anything is read or allocated.
std::string describe_device(const Device& device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) cudaGetLastError();
  const std::string name = device_name(device);
  if (status != cudaSuccess || device.index >= count) {
    throw DeviceError(describe({.item = "device",
                                .got = name,
                                .want = "one of " + std::to_string(count) + " CUDA devices",
                                .note = status == cudaSuccess ? "" : cudaGetErrorString(status)}));
  }
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, device.index), "device properties");
  const std::string capability =
      std::to_string(properties.major) + "." + std::to_string(properties.minor);
  if (properties.major < kOldestMajor) {
    throw DeviceError(describe({.item = name,
                                .field = "compute capability",
                                .got = capability,
                                .want = "8.0 or later",
                                .note = properties.name}));
  }
  return name + " (" + properties.name + ", compute capability " + capability + ")";
}

Stream make_stream_on(int device) {
  const DeviceGuard guard(device);
  return make_stream();
}

}  // namespace

CudaBackend::CudaBackend(const Device& device)
    : allocator_(device.index),
      description_(describe_device(device)),
      stream_(make_stream_on(device.index)) {
  const DeviceGuard guard(device.index);
  uploader_ = Uploader(kUploadBytes, stream_.get());
}

// What still runs must not outlive its memory; a lost device has nothing running.
CudaBackend::~CudaBackend() { cudaStreamSynchronize(stream_.get()); }

bool CudaBackend::supports_head_dim(std::int64_t head_dim) const {
  return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128;
}

std::int64_t CudaBackend::free_bytes() const {
  const DeviceGuard guard(device().index);
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "free memory");
  return static_cast<std::int64_t>(free);
}

std::int64_t CudaBackend::slots(const BackendLimits& limits) const {
  const DeviceGuard guard(device().index);
  return decode_slots(limits.dtype, static_cast<std::int32_t>(limits.attention.head_dim));
}

std::int64_t CudaBackend::workspace_bytes(const BackendLimits& limits) const {
  return WorkspaceLayout(limits, slots(limits)).total_bytes;
}

void CudaBackend::reserve(const BackendLimits& limits) {
  const DeviceGuard guard(device().index);
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
  const DeviceGuard guard(device().index);
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
  const DeviceGuard guard(device().index);
  check(cudaMemcpyAsync(destination.data<void>(), source,
                        static_cast<std::size_t>(destination.bytes()), cudaMemcpyHostToDevice,
                        stream_.get()),
        "copy to device");
  check(cudaStreamSynchronize(stream_.get()), "copy to device");
}

void CudaBackend::copy_to_host(void* destination, const Tensor& source) {
  const DeviceGuard guard(device().index);
  check(cudaMemcpyAsync(destination, source.data<void>(), static_cast<std::size_t>(source.bytes()),
                        cudaMemcpyDeviceToHost, stream_.get()),
        "copy to host");
  check(cudaStreamSynchronize(stream_.get()), "copy to host");
}

const float* CudaBackend::host_floats(const Tensor& x) {
  const DeviceGuard guard(device().index);
  if (read_back_.bytes() < x.bytes()) read_back_ = PinnedBuffer(x.bytes());
  copy_to_host(read_back_.data(), x);
  return reinterpret_cast<const float*>(read_back_.data());
}

void CudaBackend::embed(const Matrix& table, std::span<const std::int32_t> tokens, Tensor& out) {
  const DeviceGuard guard(device().index);
  auto* const ids = workspace<std::int32_t>(tables().layout().tokens);
  uploader_.upload(ids, tokens.data(), static_cast<std::int64_t>(tokens.size_bytes()));
  launch_embed(table.storage.data(), table.dtype, ids, out.dim(0), table.cols, out.data<float>(),
               stream_.get());
}

void CudaBackend::rms_norm(const Tensor& x, const Tensor& weight, double eps, Tensor& out) {
  const DeviceGuard guard(device().index);
  launch_rms_norm(x.data<float>(), weight.data<float>(), static_cast<float>(eps), x.dim(0),
                  x.dim(1), out.data<float>(), stream_.get());
}

void CudaBackend::matmul(const Tensor& x, const Matrix& weight, const Tensor* bias, bool accumulate,
                         Tensor& out) {
  if (x.dim(0) == 0) return;
  const DeviceGuard guard(device().index);
  const float* const bias_data = bias == nullptr ? nullptr : bias->data<float>();
  if (x.dim(0) <= kSmallRows && weight.cols % 8 == 0) {
    launch_small_matmul(x.data<float>(), x.dim(0), weight.storage.data(), weight.dtype, weight.rows,
                        weight.cols, bias_data, accumulate, out.data<float>(), stream_.get());
    return;
  }
  const WorkspaceLayout& layout = tables().layout();
  void* const converted = workspace<void>(layout.converted);
  launch_convert(x.data<float>(), x.elements(), weight.dtype, converted, stream_.get());
  blas_.run(converted, x.dim(0), weight, bias_data, accumulate, out.data<float>(),
            workspace<void>(layout.blas), stream_.get());
}

void CudaBackend::silu_mul(const Tensor& gate_up, Tensor& out) {
  const DeviceGuard guard(device().index);
  launch_silu_mul(gate_up.data<float>(), out.dim(0), out.dim(1), out.data<float>(), stream_.get());
}

void CudaBackend::rope_append(const RopeArgs& args, Tensor& qkv) {
  const DeviceGuard guard(device().index);
  StepTables& tables = this->tables();
  tables.set_rows(args.slices);
  const StepTables::Layer layer = tables.layer(args.shape, args.layer, args.slices);
  const auto optional = [](const Tensor* x) { return x == nullptr ? nullptr : x->data<float>(); };
  launch_rope_append({.dims = dims_of(args.shape),
                      .dtype = limits_.dtype,
                      .rows = static_cast<std::int32_t>(qkv.dim(0)),
                      .positions = workspace<std::int32_t>(layout_->positions),
                      .row_slices = workspace<std::int32_t>(layout_->row_slices),
                      .segments = layer.segments,
                      .cos = args.rope->cos.data<float>(),
                      .sin = args.rope->sin.data<float>(),
                      .query_norm = optional(args.query_norm),
                      .key_norm = optional(args.key_norm),
                      .norm_eps = static_cast<float>(args.norm_eps),
                      .qkv = qkv.data<float>()},
                     stream_.get());
}

void CudaBackend::attention(const AttentionArgs& args, const Tensor& qkv, Tensor& out) {
  const DeviceGuard guard(device().index);
  StepTables& tables = this->tables();
  tables.set_rows(args.slices);
  const StepTables::Layer layer = tables.layer(args.shape, args.layer, args.slices);
  decode(args, layer, qkv, out);
  const auto longer = [](const SequenceSlice& slice) { return slice.count > 1; };
  if (std::ranges::any_of(args.slices, longer)) prefill(args, layer, qkv, out);
}

void CudaBackend::decode(const AttentionArgs& args, const StepTables::Layer& layer,
                         const Tensor& qkv, Tensor& out) {
  for (const DecodeLaunch& launch : layer.launches) {
    launch_decode_attention({.dims = dims_of(args.shape),
                             .dtype = limits_.dtype,
                             .items = layer.decode + launch.first,
                             .num_items = static_cast<std::int32_t>(launch.count),
                             .positions = workspace<std::int32_t>(layout_->positions),
                             .qkv = qkv.data<float>(),
                             .out = out.data<float>(),
                             .partial_sums = workspace<float>(layout_->partial_sums),
                             .partial_states = workspace<float>(layout_->partial_states),
                             .counters = workspace<std::int32_t>(layout_->counters)},
                            stream_.get());
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
  const DeviceGuard guard(device().index);
  auto* const rows = workspace<std::int64_t>(tables().layout().row_index);
  uploader_.upload(rows, index.data(), static_cast<std::int64_t>(index.size_bytes()));
  launch_gather_rows(x.data<float>(), rows, out.dim(0), x.dim(1), out.data<float>(), stream_.get());
}

}  // namespace cuda

std::unique_ptr<Backend> make_cuda_backend(const Device& device) {
  return std::make_unique<cuda::CudaBackend>(device);
}

}  // namespace moa_rt
