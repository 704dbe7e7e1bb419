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

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

// Seconds of a contender: the median of all replays, and the slowest round over the fastest, minus
// one.
struct Timing {
  double seconds = 0.0;
  double spread = 0.0;
};

// Three rounds of seven replays, interleaved, five warm-ups.
inline std::vector<Timing> compare(const std::vector<const GraphExec*>& contenders,
                                   cudaStream_t stream) {
  struct Times {
    std::vector<double> all;
    std::vector<double> rounds;
  };
  std::vector<Times> times(contenders.size());
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const std::size_t which = (i + static_cast<std::size_t>(round)) % contenders.size();
      for (int warm_up = 0; warm_up < 5; ++warm_up) replay_seconds(*contenders[which], stream);
      std::vector<double> runs(7);
      for (double& run : runs) run = replay_seconds(*contenders[which], stream);
      times[which].all.insert(times[which].all.end(), runs.begin(), runs.end());
      times[which].rounds.push_back(median(runs));
    }
  }
  std::vector<Timing> out;
  for (const Times& one : times) {
    const auto [fastest, slowest] = std::ranges::minmax_element(one.rounds);
    out.push_back({median(one.all), *slowest / *fastest - 1.0});
  }
  return out;
}

inline double median_seconds(const GraphExec& graph, cudaStream_t stream) {
  return compare({&graph}, stream)[0].seconds;
}

}  // namespace moa_rt::cuda::bench
