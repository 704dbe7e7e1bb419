// The decode loop on the GPU: one captured graph a size of batch, launched once a step.
//
// A graph embeds the rows' tokens, runs the layers, samples, and writes each row's token back to
// where the next step reads it; only the grid of decode attention changes between its launches, and
// only when a batch changes or a sequence outgrows its work list. Results travel to page-locked
// memory after each step; the host reads them while the next step runs.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "cuda/attention/attention.h"
#include "cuda/runtime/device_context.h"
#include "cuda/runtime/handles.h"
#include "cuda/runtime/loop_layout.h"
#include "cuda/runtime/loop_tables.h"
#include "cuda/runtime/uploader.h"
#include "cuda/sampling/sampling.h"
#include "ops/backend.h"

namespace moa_rt::cuda {

class CudaBackend;

class CudaDecodeLoop final : public DecodeLoop {
 public:
  CudaDecodeLoop(CudaBackend& backend, const BackendLimits& limits,
                 const WorkspaceLayout& workspace, std::int64_t slots, DecodeModel model);
  ~CudaDecodeLoop() override;

  void join(std::int64_t row, const DecodeSequence& sequence) override;
  void leave(std::int64_t row) override;
  void move(std::int64_t from, std::int64_t to) override;
  std::span<const DecodeResult> sample_first(std::span<const std::int64_t> rows,
                                             const Tensor& logits) override;
  void launch() override;
  std::span<const DecodeResult> collect() override;
  std::int64_t in_flight() const override { return launched_ - collected_; }
  void take_back(std::int64_t row, KVCache& cache, std::int64_t position) override;
  void wait() override;
  DecodeCounters counters() const override;

  // While a step is recorded the backend takes its tables from here and says what it launched.
  const LoopTables& tables() const { return *tables_; }
  void launched_attention(const DecodeArgs& args, std::int64_t layer, std::int64_t launch);

 private:
  struct AttentionNode {
    cudaGraphNode_t node = nullptr;
    DecodeArgs args;
    std::int64_t layer = 0;
    std::int64_t launch = 0;
  };
  struct Graph {
    Owner<cudaGraph_t, &cudaGraphDestroy> recorded;  // its nodes name those of exec
    Owner<cudaGraphExec_t, &cudaGraphExecDestroy> exec;
    std::vector<AttentionNode> attention;
    std::int64_t nodes = 0;
  };

  template <typename T>
  T* at(std::int64_t offset) const {
    return reinterpret_cast<T*>(memory_.data() + offset);
  }
  void fill(std::int64_t slots);
  std::int64_t bucket() const;
  Graph& graph(std::int64_t rows);
  Graph record(std::int64_t rows);
  void run_model(std::int64_t rows, bool sample);
  SampleArgs sample_args(float* logits, std::int64_t vocab, std::int64_t rows) const;
  void send_results(std::int64_t rows);

  CudaBackend& backend_;
  std::optional<DeviceGuard> guard_;  // while the members after it are made and destroyed
  BackendLimits limits_;
  DecodeModel model_;
  LoopLayout layout_;
  KVCache padding_;
  Storage memory_;
  Uploader uploader_;
  std::optional<LoopTables> tables_;
  std::map<std::int64_t, Graph> graphs_;
  std::vector<AttentionNode> recorded_;

  struct Row {
    bool busy = false;
    std::int64_t logprobs = -1;
  };
  std::vector<Row> rows_;
  std::array<PinnedBuffer, 2> received_;
  std::array<Event, 2> done_;
  std::array<std::int64_t, 2> sent_rows_ = {};
  std::array<bool, 2> sent_top_ = {};
  std::vector<DecodeResult> results_;
  PinnedBuffer first_;  // results of sample_first()
  std::vector<DecodeResult> firsts_;
  std::int64_t launched_ = 0;
  std::int64_t collected_ = 0;
  DecodeCounters counters_;
};

}  // namespace moa_rt::cuda
