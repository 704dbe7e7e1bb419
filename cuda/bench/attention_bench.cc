// Attention kernels against the device's own ceilings: the figures D1-D4, P1 and P2 of the goals,
// one JSON object a line. Random data, graph replays over more memory than the L2 holds five times.
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "cuda/attention/schedule.h"
#include "cuda/bench/ceiling.h"
#include "cuda/bench/device_fill.h"
#include "cuda/bench/measure.h"
#include "cuda/runtime/cuda_backend.h"

namespace moa_rt::cuda::bench {
namespace {

constexpr std::int64_t kDim = 128;
constexpr double kRotatedBytes = 512e6;  // more than five times the L2

struct Model {
  const char* name;
  std::int64_t query_heads;
  std::int64_t kv_heads;
};
constexpr Model kMha{"7B: 32 heads", 32, 32};
constexpr Model kGqa{"8B: 32 heads, 8 KV heads", 32, 8};

AttentionShape shape_of(const Model& model) { return {model.query_heads, model.kv_heads, kDim}; }

std::vector<HeadSpan> uniform(const Model& model, std::int64_t span) {
  return std::vector<HeadSpan>(static_cast<std::size_t>(model.kv_heads), HeadSpan{64, span - 64});
}

// Two thirds of a published plan's heads are near the ends of the range: narrow ones of N / 8, wide
// ones of 3 / 4 to 7 / 8 N, with a mean of half.
std::vector<HeadSpan> mixed(const Model& model, std::int64_t tokens, double density) {
  std::vector<HeadSpan> spans;
  const std::int64_t eighth = tokens / 8;
  const int half[8] = {1, 7, 1, 6, 7, 1, 7, 2};     // sum 32 of 64
  const int quarter[8] = {1, 1, 1, 1, 1, 5, 1, 5};  // sum 16
  for (std::int64_t h = 0; h < model.kv_heads; ++h) {
    const auto at = static_cast<std::size_t>(h % 8);
    const int eighths = density == 0.5 ? half[at] : quarter[at];
    spans.push_back({64, eighths * eighth - 64});
  }
  return spans;
}

// A batch of sequences whose rings are all full, over as many layers as rotate the memory.
class DecodeBatch {
 public:
  DecodeBatch(const Model& model, const std::vector<HeadSpan>& spans, std::int64_t batch)
      : shape_(shape_of(model)), backend_({DeviceType::kCuda, 0}) {
    std::int64_t slots = 0;
    std::int64_t longest = 0;
    for (const HeadSpan& span : spans) {
      slots += span.span();
      longest = std::max(longest, span.span());
    }
    layer_bytes_ = static_cast<double>(batch * slots * kDim * 4);
    layers_ =
        std::max<std::int64_t>(static_cast<std::int64_t>(kRotatedBytes / layer_bytes_) + 1, 2);
    backend_.reserve({.attention = shape_,
                      .max_rows = batch,
                      .max_sequences = batch,
                      .max_seq_len = longest,
                      .max_matrix_cols = 16,
                      .dtype = DType::kBF16,
                      .num_layers = layers_});
    const CacheLayout layout(
        std::vector<std::vector<HeadSpan>>(static_cast<std::size_t>(layers_), spans), kDim,
        DType::kBF16);
    const std::int64_t width = (shape_.num_query_heads + 2 * shape_.num_kv_heads) * kDim;
    qkv_ = Tensor::allocate(backend_.allocator(), DType::kF32, {batch, width});
    out_ =
        Tensor::allocate(backend_.allocator(), DType::kF32, {batch, shape_.num_query_heads * kDim});
    fill_f32(qkv_.data<float>(), qkv_.elements(), 7, 1.0f, stream());
    for (std::int64_t i = 0; i < batch; ++i) {
      caches_.push_back(std::make_unique<KVCache>(backend_.allocator(), layout));
      fill_bf16(caches_.back()->segment(0, 0).keys, layout.total_bytes() / 2,
                static_cast<std::uint32_t>(i), 1.0f, stream());
      caches_.back()->advance(longest);
      slices_.push_back({caches_.back().get(), i, 1, longest});
    }
    all_layers();  // uploads the tables
    check(cudaStreamSynchronize(stream()), "decode");
    graph_ = capture(stream(), [this] { all_layers(); });
  }

  const GraphExec& graph() const { return graph_; }
  cudaStream_t stream() const { return backend_.stream(); }
  double bytes() const { return layer_bytes_ * static_cast<double>(layers_); }
  double layer_bytes() const { return layer_bytes_; }
  double layers() const { return static_cast<double>(layers_); }

 private:
  void all_layers() {
    for (std::int64_t layer = 0; layer < layers_; ++layer) {
      backend_.attention({.shape = shape_, .layer = layer, .slices = slices_}, qkv_, out_);
    }
  }

  AttentionShape shape_;
  CudaBackend backend_;
  double layer_bytes_ = 0.0;
  std::int64_t layers_ = 0;
  Tensor qkv_, out_;
  std::vector<std::unique_ptr<KVCache>> caches_;
  std::vector<SequenceSlice> slices_;
  GraphExec graph_;
};

void decode_bandwidth(const char* goal, const Model& model, std::int64_t batch, std::int64_t span,
                      double ceiling) {
  const DecodeBatch work(model, uniform(model, span), batch);
  const Timing timing = compare({&work.graph()}, work.stream())[0];
  const double rate = work.bytes() / timing.seconds;
  std::printf(
      "{\"goal\": \"%s\", \"model\": \"%s\", \"batch\": %d, \"span\": %d, \"layer_MB\": %.1f, "
      "\"us_per_layer\": %.2f, \"spread\": %.4f, \"TB_s\": %.3f, \"share_of_read\": %.3f}\n",
      goal, model.name, static_cast<int>(batch), static_cast<int>(span), work.layer_bytes() / 1e6,
      timing.seconds / work.layers() * 1e6, timing.spread, rate / 1e12, rate / ceiling);
}

void decode_ratio(const char* goal, const Model& model, std::int64_t batch, const char* what,
                  const std::vector<HeadSpan>& over, const std::vector<HeadSpan>& under) {
  const DecodeBatch a(model, over, batch);
  const DecodeBatch b(model, under, batch);
  const std::vector<Timing> timings = compare({&a.graph(), &b.graph()}, a.stream());
  const double us = timings[0].seconds / a.layers() * 1e6;
  const double base_us = timings[1].seconds / b.layers() * 1e6;
  std::printf(
      "{\"goal\": \"%s\", \"model\": \"%s\", \"batch\": %d, \"what\": \"%s\", \"us\": %.2f, "
      "\"base_us\": %.2f, \"spread\": %.4f, \"base_spread\": %.4f, \"ratio\": %.3f}\n",
      goal, model.name, static_cast<int>(batch), what, us, base_us, timings[0].spread,
      timings[1].spread, us / base_us);
}

// One prompt from nothing, kernel alone.
class Prefill {
 public:
  Prefill(const Model& model, const std::vector<HeadSpan>& spans, std::int64_t tokens)
      : backend_({DeviceType::kCuda, 0}) {
    const AttentionDims dims{static_cast<std::int32_t>(model.query_heads),
                             static_cast<std::int32_t>(model.kv_heads), kDim};
    std::vector<Segment> segments;
    for (const HeadSpan& span : spans) {
      segments.push_back({.sink = static_cast<std::int32_t>(span.sink),
                          .window = static_cast<std::int32_t>(span.window),
                          .count = static_cast<std::int32_t>(tokens)});
      for (std::int64_t q = 0; q < tokens; ++q) {
        pairs_ += static_cast<double>(std::min(q + 1, span.span()) * dims.group());
      }
    }
    std::vector<PrefillItem> items;
    schedule_prefill(segments, model.kv_heads, dims.group(), kPrefillTileRows, items);
    qkv_ = Storage(backend_.allocator(), tokens * dims.qkv_width() * 4);
    fill_f32(reinterpret_cast<float*>(qkv_.data()), tokens * dims.qkv_width(), 3, 1.0f, stream());
    queries_ = Storage(backend_.allocator(), model.query_heads * tokens * kDim * 2);
    const std::int64_t chunk_bytes = model.kv_heads * tokens * kDim * 2;
    keys_ = Storage(backend_.allocator(), chunk_bytes);
    values_ = Storage(backend_.allocator(), chunk_bytes);
    out_ = Storage(backend_.allocator(), tokens * model.query_heads * kDim * 4);
    const StagedChunk chunk{queries_.data(), keys_.data(), values_.data()};
    segments_ = upload(segments);
    items_ = upload(items);
    launch_stage_chunk(dims, DType::kBF16, reinterpret_cast<float*>(qkv_.data()),
                       static_cast<std::int32_t>(tokens), chunk, stream());
    check(cudaStreamSynchronize(stream()), "prefill");
    graph_ = capture(stream(), [&] {
      launch_prefill_attention({.dims = dims,
                                .dtype = DType::kBF16,
                                .segments = reinterpret_cast<Segment*>(segments_.data()),
                                .items = reinterpret_cast<PrefillItem*>(items_.data()),
                                .num_items = static_cast<std::int32_t>(items.size()),
                                .rows = static_cast<std::int32_t>(tokens),
                                .chunk = chunk,
                                .out = reinterpret_cast<float*>(out_.data())},
                               stream());
    });
  }

  const GraphExec& graph() const { return graph_; }
  cudaStream_t stream() const { return backend_.stream(); }
  double flops() const { return 4.0 * static_cast<double>(kDim) * pairs_; }

 private:
  template <typename T>
  Storage upload(const std::vector<T>& values) {
    Storage storage(backend_.allocator(), static_cast<std::int64_t>(values.size() * sizeof(T)));
    check(cudaMemcpy(storage.data(), values.data(), values.size() * sizeof(T),
                     cudaMemcpyHostToDevice),
          "upload");
    return storage;
  }

  CudaBackend backend_;
  double pairs_ = 0.0;
  Storage qkv_, queries_, keys_, values_, out_, segments_, items_;
  GraphExec graph_;
};

struct PrefillCase {
  const char* goal;
  const char* what;
  const Model* model;
  std::vector<HeadSpan> spans;
  bool over_first = false;  // its rate is told as a share of the first case's
};

void prefill(std::int64_t tokens) {
  const std::vector<PrefillCase> cases = {
      {"P1", "dense causal", &kMha, uniform(kMha, tokens)},
      {"P2", "mixed, 50 %", &kMha, mixed(kMha, tokens, 0.5), true},
      {"P1", "dense causal", &kGqa, uniform(kGqa, tokens)}};
  std::vector<std::unique_ptr<Prefill>> work;
  std::vector<const GraphExec*> graphs;
  for (const PrefillCase& one : cases) {
    work.push_back(std::make_unique<Prefill>(*one.model, one.spans, tokens));
    graphs.push_back(&work.back()->graph());
  }
  const std::vector<Timing> timings = compare(graphs, work[0]->stream());
  const double dense = work[0]->flops() / timings[0].seconds;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const double rate = work[i]->flops() / timings[i].seconds;
    std::printf(
        "{\"goal\": \"%s\", \"model\": \"%s\", \"tokens\": %d, \"what\": \"%s\", \"ms\": %.3f, "
        "\"spread\": %.4f, \"visible_TFLOP_s\": %.1f",
        cases[i].goal, cases[i].model->name, static_cast<int>(tokens), cases[i].what,
        timings[i].seconds * 1e3, timings[i].spread, rate / 1e12);
    if (cases[i].over_first) std::printf(", \"rate_over_dense\": %.3f", rate / dense);
    std::printf("}\n");
  }
}

void run() {
  const double ceiling = read_ceiling();
  std::printf("{\"device\": \"%s\", \"read_TB_s\": %.3f}\n",
              CudaBackend({DeviceType::kCuda, 0}).description().c_str(), ceiling / 1e12);
  decode_bandwidth("D1", kMha, 8, 2048, ceiling);
  decode_bandwidth("D1", kMha, 16, 4096, ceiling);
  decode_bandwidth("D1", kGqa, 16, 4096, ceiling);
  decode_bandwidth("D1", kGqa, 32, 8192, ceiling);
  decode_bandwidth("D2", kMha, 1, 2048, ceiling);
  decode_bandwidth("D2", kGqa, 1, 8192, ceiling);
  decode_bandwidth("D2", kMha, 1, 8192, ceiling);
  decode_bandwidth("D2", kGqa, 1, 32768, ceiling);
  for (const std::int64_t batch : {1, 8}) {
    decode_ratio("D3", kMha, batch, "mixed / uniform, 50 % of 8192", mixed(kMha, 8192, 0.5),
                 uniform(kMha, 4096));
    decode_ratio("D3", kGqa, batch, "mixed / uniform, 50 % of 8192", mixed(kGqa, 8192, 0.5),
                 uniform(kGqa, 4096));
  }
  decode_ratio("D4", kMha, 8, "50 % / dense, 8192", mixed(kMha, 8192, 0.5), uniform(kMha, 8192));
  decode_ratio("D4", kMha, 8, "25 % / dense, 8192", mixed(kMha, 8192, 0.25), uniform(kMha, 8192));
  for (const std::int64_t tokens : {4096, 8192}) prefill(tokens);
}

}  // namespace
}  // namespace moa_rt::cuda::bench

int main() {
  try {
    moa_rt::cuda::bench::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
