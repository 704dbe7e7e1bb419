#include "cuda/runtime/decode_loop.h"

#include <algorithm>
#include <utility>

#include "cuda/runtime/cuda_backend.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

constexpr double kLog2OfE = 1.4426950408889634074;

// Room for the tables of a few batch changes: when it is full the stream is waited for once.
std::int64_t upload_bytes(const LoopLayout& layout) {
  constexpr std::int64_t kLeast = std::int64_t{1} << 20;
  constexpr std::int64_t kMost = std::int64_t{64} << 20;
  return std::clamp(2 * layout.layers * layout.rows * layout.items_per_row *
                        static_cast<std::int64_t>(sizeof(DecodeItem)),
                    kLeast, kMost);
}

CacheLayout padding_layout(const BackendLimits& limits) {
  const std::vector<HeadSpan> heads(static_cast<std::size_t>(limits.attention.num_kv_heads),
                                    HeadSpan{0, 1});
  return CacheLayout(
      std::vector<std::vector<HeadSpan>>(static_cast<std::size_t>(limits.num_layers), heads),
      limits.attention.head_dim, limits.dtype);
}

// Ends a capture that an exception leaves behind.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  }
  ~Capture() {
    if (ended_) return;
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph != nullptr) {
      cudaGraphDestroy(graph);
    }
    cudaGetLastError();  // that the capture was spoilt must not fail a later call
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  Owner<cudaGraph_t, &cudaGraphDestroy> end() {
    ended_ = true;
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream_, &graph), "capture");
    return Owner<cudaGraph_t, &cudaGraphDestroy>(graph);
  }

 private:
  cudaStream_t stream_;
  bool ended_ = false;
};

// The one node that the stream's next piece of work would follow.
cudaGraphNode_t last_node(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaGraphNode_t* nodes = nullptr;
  std::size_t count = 0;
#if CUDART_VERSION >= 13000
  const cudaGraphEdgeData* edges = nullptr;
  check(cudaStreamGetCaptureInfo(stream, &status, nullptr, nullptr, &nodes, &edges, &count),
        "capture");
#else
  check(cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, nullptr, &nodes, &count), "capture");
#endif
  if (status != cudaStreamCaptureStatusActive || count != 1) {
    throw InternalError("cuda: capture without a last node");
  }
  return nodes[0];
}

RowState state_of(const DecodeSequence& sequence) {
  const SamplingPlan& plan = sequence.sampling;
  return {.inverse = plan.greedy ? 0.0 : kLog2OfE / plan.temperature,
          .least = plan.least,
          .top_p = plan.top_p,
          .repetition = plan.repetition_penalty,
          .frequency = plan.frequency_penalty,
          .presence = plan.presence_penalty,
          .seed = sequence.seed,
          .index = sequence.index,
          .min_new_tokens = sequence.min_new_tokens,
          .top_k = plan.top_k,
          .active = 1,
          .greedy = plan.greedy ? 1 : 0,
          .uses_history = plan.uses_history ? 1 : 0,
          .logprobs = static_cast<std::int32_t>(sequence.logprobs),
          .bias_count = static_cast<std::int32_t>(sequence.logit_bias.size()),
          .stop_count = static_cast<std::int32_t>(sequence.stop_ids.size()),
          .seen_count = static_cast<std::int32_t>(sequence.history.size())};
}

DecodeResult to_result(const RowResult& result, const TopToken* top) {
  DecodeResult out{.token = result.token,
                   .fault = result.fault,
                   .faulty = result.faulty,
                   .logprob = result.logprob,
                   .top = {}};
  if (top != nullptr) out.top = {top, kMaxTop};
  return out;
}

}  // namespace

CudaDecodeLoop::CudaDecodeLoop(CudaBackend& backend, const BackendLimits& limits,
                               const WorkspaceLayout& workspace, std::int64_t slots,
                               DecodeModel model)
    : backend_(backend),
      guard_(std::in_place, backend.context()),
      limits_(limits),
      model_(std::move(model)),
      layout_(limits, workspace),
      padding_(backend.allocator(), padding_layout(limits)),
      memory_(backend.allocator(), layout_.total_bytes) {
  fill(slots);
  guard_.reset();
}

void CudaDecodeLoop::fill(std::int64_t slots) {
  const StreamWait wait(backend_.stream());  // memory may run short while tables travel
  uploader_ = Uploader(upload_bytes(layout_), backend_.stream());
  check(cudaMemsetAsync(memory_.data(), 0, static_cast<std::size_t>(layout_.total_bytes),
                        backend_.stream()),
        "decode loop");
  check(cudaMemsetAsync(padding_.segment(0, 0).keys, 0, static_cast<std::size_t>(padding_.bytes()),
                        backend_.stream()),
        "decode loop");
  tables_.emplace(layout_, memory_.data(), limits_.attention, slots, padding_, uploader_);
  rows_.resize(static_cast<std::size_t>(layout_.rows));
  results_.resize(rows_.size());
  firsts_.resize(rows_.size());
  const std::int64_t result_bytes =
      layout_.rows * static_cast<std::int64_t>(sizeof(RowResult) + kMaxTop * sizeof(TopToken));
  first_ = PinnedBuffer(result_bytes);
  for (std::size_t side = 0; side < 2; ++side) {
    received_[side] = PinnedBuffer(result_bytes);
    done_[side] = make_event();
  }
}

// What still runs must not outlive its memory; a lost device has nothing running.
CudaDecodeLoop::~CudaDecodeLoop() {
  guard_.emplace(backend_.context(), std::nothrow);
  cudaStreamSynchronize(backend_.stream());
}

void CudaDecodeLoop::join(std::int64_t row, const DecodeSequence& sequence) {
  const DeviceGuard guard(backend_.context());
  const RowState state = state_of(sequence);
  const RowLists lists(layout_.most_seen);
  std::byte* const base = memory_.data() + layout_.lists + row * lists.bytes;
  if (!sequence.logit_bias.empty()) {
    std::vector<TokenBias> bias;
    for (const auto& [token, value] : sequence.logit_bias) {
      bias.push_back({.bias = value, .token = static_cast<std::int32_t>(token)});
    }
    uploader_.upload(base + lists.bias, bias.data(),
                     static_cast<std::int64_t>(bias.size() * sizeof(TokenBias)));
  }
  if (!sequence.stop_ids.empty()) {
    const std::vector<std::int32_t> ids(sequence.stop_ids.begin(), sequence.stop_ids.end());
    uploader_.upload(base + lists.stop, ids.data(), static_cast<std::int64_t>(ids.size() * 4));
  }
  if (!sequence.history.empty()) {
    uploader_.upload(base + lists.seen, sequence.history.data(),
                     static_cast<std::int64_t>(sequence.history.size_bytes()));
  }
  const auto position = static_cast<std::int32_t>(sequence.cache->length());
  uploader_.upload(at<RowState>(layout_.states) + row, &state, sizeof(state));
  uploader_.upload(at<std::int32_t>(layout_.tokens) + row, &sequence.token, 4);
  uploader_.upload(at<std::int32_t>(layout_.positions) + row, &position, 4);
  tables_->set_row(row, sequence.cache, position, sequence.can_take_back);
  rows_[static_cast<std::size_t>(row)] = {.busy = true, .logprobs = sequence.logprobs};
}

void CudaDecodeLoop::leave(std::int64_t row) {
  const DeviceGuard guard(backend_.context());
  const RowState idle;
  const std::int32_t zero = 0;
  uploader_.upload(at<RowState>(layout_.states) + row, &idle, sizeof(idle));
  uploader_.upload(at<std::int32_t>(layout_.tokens) + row, &zero, 4);
  uploader_.upload(at<std::int32_t>(layout_.positions) + row, &zero, 4);
  tables_->set_row(row, nullptr, 0, false);
  rows_[static_cast<std::size_t>(row)] = {};
}

void CudaDecodeLoop::move(std::int64_t from, std::int64_t to) {
  const DeviceGuard guard(backend_.context());
  const auto copy = [&](std::int64_t offset, std::int64_t bytes) {
    check(cudaMemcpyAsync(memory_.data() + offset + to * bytes,
                          memory_.data() + offset + from * bytes, static_cast<std::size_t>(bytes),
                          cudaMemcpyDeviceToDevice, backend_.stream()),
          "decode loop");
  };
  copy(layout_.tokens, 4);
  copy(layout_.positions, 4);
  copy(layout_.states, sizeof(RowState));
  copy(layout_.lists, RowLists(layout_.most_seen).bytes);
  const Row row = rows_[static_cast<std::size_t>(from)];
  tables_->move_row(from, to);
  leave(from);
  rows_[static_cast<std::size_t>(to)] = row;
}

// The smallest of 1, 2, 4, ... and all rows that covers the busy ones.
std::int64_t CudaDecodeLoop::bucket() const {
  std::int64_t used = layout_.rows;
  while (used > 1 && !rows_[static_cast<std::size_t>(used - 1)].busy) --used;
  std::int64_t rows = 1;
  while (rows < used) rows *= 2;
  return std::min(rows, layout_.rows);
}

// Beside a step under way: what it samples lies elsewhere by the time that this runs.
std::span<const DecodeResult> CudaDecodeLoop::sample_first(std::span<const std::int64_t> rows,
                                                           const Tensor& logits) {
  const DeviceGuard guard(backend_.context());
  const auto copy = [&](std::byte* target, const void* source, std::int64_t bytes) {
    check(cudaMemcpyAsync(target, source, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost,
                          backend_.stream()),
          "first tokens");
  };
  constexpr auto kResultBytes = static_cast<std::int64_t>(sizeof(RowResult));
  constexpr auto kTopBytes = static_cast<std::int64_t>(kMaxTop * sizeof(TopToken));
  std::byte* const received = first_.data();
  std::byte* const received_top = received + layout_.rows * kResultBytes;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0) continue;
    const auto at_row = static_cast<std::int64_t>(i);
    SampleArgs args = sample_args(logits.data<float>() + at_row * logits.dim(1), logits.dim(1), 1);
    args.states += rows[i];
    args.lists += rows[i] * RowLists(layout_.most_seen).bytes;
    args.tokens += rows[i];
    args.positions = nullptr;  // the prompt is in the cache, the token is not
    args.results += rows[i];
    args.top += rows[i] * kMaxTop;
    launch_sample(args, backend_.stream());
    copy(received + at_row * kResultBytes, args.results, kResultBytes);
    if (rows_[static_cast<std::size_t>(rows[i])].logprobs > 0) {
      copy(received_top + at_row * kTopBytes, args.top, kTopBytes);
    }
  }
  check(cudaStreamSynchronize(backend_.stream()), "first tokens");
  const auto* const top = reinterpret_cast<const TopToken*>(received_top);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0) continue;
    const bool has_top = rows_[static_cast<std::size_t>(rows[i])].logprobs > 0;
    firsts_[i] = to_result(reinterpret_cast<const RowResult*>(received)[i],
                           has_top ? top + i * kMaxTop : nullptr);
  }
  return std::span(firsts_).first(rows.size());
}

void CudaDecodeLoop::launch() {
  const DeviceGuard guard(backend_.context());
  if (in_flight() == 2) throw InternalError("cuda: a third decode step in flight");
  const std::int64_t rows = bucket();
  tables_->prepare(rows);
  Graph& step = graph(rows);
  for (AttentionNode& node : step.attention) {
    const std::int32_t count = tables_->item_count(node.layer, node.launch);
    if (node.args.num_items == count) continue;
    node.args.num_items = count;
    set_decode_attention(step.exec.get(), node.node, node.args);
  }
  check(cudaGraphLaunch(step.exec.get(), backend_.stream()), "decode step");
  send_results(rows);
  tables_->advance(rows);
  ++launched_;
  ++counters_.steps;
  counters_.nodes = step.nodes;
}

void CudaDecodeLoop::send_results(std::int64_t rows) {
  const auto side = static_cast<std::size_t>(launched_ % 2);
  const bool top = std::ranges::any_of(rows_, [](const Row& row) { return row.logprobs > 0; });
  const auto results = rows * static_cast<std::int64_t>(sizeof(RowResult));
  const auto copy = [&](std::int64_t offset, std::int64_t bytes) {
    check(
        cudaMemcpyAsync(received_[side].data() + offset, at<std::byte>(layout_.results) + offset,
                        static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, backend_.stream()),
        "decode results");
  };
  copy(0, results);
  if (top) {
    copy(layout_.top - layout_.results,
         rows * kMaxTop * static_cast<std::int64_t>(sizeof(TopToken)));
  }
  check(cudaEventRecord(done_[side].get(), backend_.stream()), "decode results");
  sent_rows_[side] = rows;
  sent_top_[side] = top;
}

std::span<const DecodeResult> CudaDecodeLoop::collect() {
  const DeviceGuard guard(backend_.context());
  if (in_flight() == 0) throw InternalError("cuda: no decode step in flight");
  const auto side = static_cast<std::size_t>(collected_ % 2);
  if (in_flight() == 1) ++counters_.waits;
  check(cudaEventSynchronize(done_[side].get()), "decode step");
  const auto* const results = reinterpret_cast<const RowResult*>(received_[side].data());
  const auto* const top =
      reinterpret_cast<const TopToken*>(received_[side].data() + layout_.top - layout_.results);
  const auto count = static_cast<std::size_t>(sent_rows_[side]);
  for (std::size_t row = 0; row < count; ++row) {
    results_[row] = to_result(results[row], sent_top_[side] ? top + row * kMaxTop : nullptr);
  }
  ++collected_;
  return std::span(results_).first(count);
}

void CudaDecodeLoop::take_back(std::int64_t row, KVCache& cache, std::int64_t position) {
  const DeviceGuard guard(backend_.context());
  launch_take_back(tables_->upload_segments(cache), static_cast<std::int32_t>(layout_.heads),
                   position, tables_->kept(0) + row * layout_.heads * layout_.head_bytes,
                   layout_.head_bytes, backend_.stream());
}

void CudaDecodeLoop::wait() {
  const DeviceGuard guard(backend_.context());
  ++counters_.waits;
  check(cudaStreamSynchronize(backend_.stream()), "decode loop");
}

DecodeCounters CudaDecodeLoop::counters() const {
  DecodeCounters counters = counters_;
  counters.waits += uploader_.waits();
  return counters;
}

CudaDecodeLoop::Graph& CudaDecodeLoop::graph(std::int64_t rows) {
  const auto found = graphs_.find(rows);
  if (found != graphs_.end()) return found->second;
  return graphs_.emplace(rows, record(rows)).first->second;
}

// Tokens and slices are of the padding: what the kernels read instead lies in the tables.
void CudaDecodeLoop::run_model(std::int64_t rows, bool sample) {
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows), 0);
  std::vector<SequenceSlice> slices;
  for (std::int64_t row = 0; row < rows; ++row) slices.push_back({&padding_, row, 1, 0});
  const Tensor logits = model_.logits(tokens, slices);
  if (!sample) return;
  launch_sample(sample_args(logits.data<float>(), logits.dim(1), rows), backend_.stream());
}

// Of rows 0, 1, ...
SampleArgs CudaDecodeLoop::sample_args(float* logits, std::int64_t vocab, std::int64_t rows) const {
  return {.logits = logits,
          .rows = static_cast<std::int32_t>(rows),
          .vocab = static_cast<std::int32_t>(vocab),
          .valid_vocab = static_cast<std::int32_t>(model_.valid_vocab),
          .most_seen = static_cast<std::int32_t>(layout_.most_seen),
          .states = at<RowState>(layout_.states),
          .lists = at<std::byte>(layout_.lists),
          .tokens = at<std::int32_t>(layout_.tokens),
          .positions = at<std::int32_t>(layout_.positions),
          .results = at<RowResult>(layout_.results),
          .top = at<TopToken>(layout_.top)};
}

CudaDecodeLoop::Graph CudaDecodeLoop::record(std::int64_t rows) {
  run_model(rows, false);  // kernels are loaded and products chosen before anything is recorded
  recorded_.clear();
  Graph graph;
  const CudaBackend::LoopScope scope(backend_, *this);
  Capture capture(backend_.stream());
  run_model(rows, true);
  graph.recorded = capture.end();
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, graph.recorded.get(), 0), "decode graph");
  graph.exec = Owner<cudaGraphExec_t, &cudaGraphExecDestroy>(exec);
  std::size_t nodes = 0;
  check(cudaGraphGetNodes(graph.recorded.get(), nullptr, &nodes), "decode graph");
  graph.nodes = static_cast<std::int64_t>(nodes);
  graph.attention = recorded_;
  check(cudaGraphUpload(exec, backend_.stream()), "decode graph");
  ++counters_.builds;
  return graph;
}

void CudaDecodeLoop::launched_attention(const DecodeArgs& args, std::int64_t layer,
                                        std::int64_t launch) {
  recorded_.push_back({last_node(backend_.stream()), args, layer, launch});
}

}  // namespace moa_rt::cuda
