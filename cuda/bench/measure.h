// Timing of device work: graph replays, medians of interleaved rounds.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "cuda/runtime/handles.h"

namespace moa_rt::cuda::bench {

using GraphExec = Owner<cudaGraphExec_t, &cudaGraphExecDestroy>;

// What `work` launches on the stream, as one graph.
inline GraphExec capture(cudaStream_t stream, const std::function<void()>& work) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  work();
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph), "capture");
  const Owner<cudaGraph_t, &cudaGraphDestroy> owner(graph);
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, graph, 0), "graph");
  return GraphExec(exec);
}

inline Event make_timer() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "event");
  return Event(event);
}

// Seconds of one replay.
inline double replay_seconds(const GraphExec& graph, cudaStream_t stream) {
  const Event begin = make_timer();
  const Event end = make_timer();
  check(cudaEventRecord(begin.get(), stream), "timer");
  check(cudaGraphLaunch(graph.get(), stream), "graph");
  check(cudaEventRecord(end.get(), stream), "timer");
  check(cudaEventSynchronize(end.get()), "timer");
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "timer");
  return milliseconds * 1e-3;
}

// Median seconds of each contender: three rounds of seven replays, interleaved, five warm-ups.
inline std::vector<double> medians(const std::vector<const GraphExec*>& contenders,
                                   cudaStream_t stream) {
  std::vector<std::vector<double>> times(contenders.size());
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const std::size_t which = (i + static_cast<std::size_t>(round)) % contenders.size();
      for (int warm_up = 0; warm_up < 5; ++warm_up) replay_seconds(*contenders[which], stream);
      for (int run = 0; run < 7; ++run) {
        times[which].push_back(replay_seconds(*contenders[which], stream));
      }
    }
  }
  std::vector<double> out;
  for (std::vector<double>& list : times) {
    std::ranges::nth_element(list, list.begin() + static_cast<std::ptrdiff_t>(list.size() / 2));
    out.push_back(list[list.size() / 2]);
  }
  return out;
}

}  // namespace moa_rt::cuda::bench
