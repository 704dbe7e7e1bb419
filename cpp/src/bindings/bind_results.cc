// What an engine gives back: events, completions, memory and counters.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "moa_rt/engine.h"

namespace moa_rt::bindings {
namespace {

std::optional<std::string> reason(FinishReason finish) {
  if (finish == FinishReason::kNone) return std::nullopt;
  return finish_reason_name(finish);
}

// "None" or repr of what a getter of `self` returns, for __repr__.
std::string shown_attribute(const py::object& self, const char* name) {
  return std::string(name) + "=" + py::cast<std::string>(py::repr(self.attr(name)));
}

// A __repr__ that lists the given attributes.
auto repr_of(std::vector<const char*> names) {
  return [names = std::move(names)](const py::object& self) {
    std::string text = py::cast<std::string>(py::type::of(self).attr("__name__")) + "(";
    for (std::size_t i = 0; i < names.size(); ++i) {
      text += (i == 0 ? "" : ", ") + shown_attribute(self, names[i]);
    }
    return text + ")";
  };
}

void bind_events(py::module_& module) {
  py::class_<TokenLogprob>(module, "TokenLogprob",
                           "Natural-log probability of a token under the model's own distribution.")
      .def_readonly("token", &TokenLogprob::token)
      .def_readonly("logprob", &TokenLogprob::logprob)
      .def_readonly("top", &TokenLogprob::top)
      .def("__repr__", repr_of({"token", "logprob", "top"}));
  py::class_<TokenEvent>(module, "TokenEvent", "What one step did to one request.")
      .def_readonly("request", &TokenEvent::request)
      .def_readonly("token", &TokenEvent::token)
      .def_readonly("text", &TokenEvent::text)
      .def_readonly("logprob", &TokenEvent::logprob)
      .def_property_readonly("finish_reason", [](const TokenEvent& e) { return reason(e.finish); })
      .def_property_readonly(
          "error", [](const TokenEvent& e) { return make_exception(e.error_code, e.error); })
      .def("__repr__", repr_of({"request", "token", "text", "finish_reason"}));
  py::class_<Completion>(module, "Completion", "The answer to one prompt.")
      .def_readonly("text", &Completion::text)
      .def_readonly("token_ids", &Completion::token_ids)
      .def_property_readonly(
          "finish_reason", [](const Completion& c) { return finish_reason_name(c.finish_reason); })
      .def_readonly("logprobs", &Completion::logprobs)
      .def_readonly("prompt_tokens", &Completion::prompt_tokens)
      .def_readonly("completion_tokens", &Completion::completion_tokens)
      .def_property_readonly(
          "error", [](const Completion& c) { return make_exception(c.error_code, c.error); })
      .def("__repr__", repr_of({"text", "finish_reason", "prompt_tokens", "completion_tokens"}));
}

void bind_figures(py::module_& module) {
  py::class_<MemoryReport>(module, "MemoryReport", "Bytes an engine holds, by what they are for.")
      .def_readonly("weights", &MemoryReport::weights)
      .def_readonly("kv_cache", &MemoryReport::kv_cache)
      .def_readonly("kv_cache_peak", &MemoryReport::kv_cache_peak)
      .def_readonly("kv_cache_limit", &MemoryReport::kv_cache_limit)
      .def_readonly("scratch", &MemoryReport::scratch)
      .def_readonly("runtime", &MemoryReport::runtime)
      .def_property_readonly("total", &MemoryReport::total)
      .def("__repr__", repr_of({"weights", "kv_cache", "scratch", "runtime", "total"}));
  py::class_<EngineStats>(module, "EngineStats", "Counters since the engine was opened.")
      .def_readonly("steps", &EngineStats::steps)
      .def_readonly("prefill_tokens", &EngineStats::prefill_tokens)
      .def_readonly("decode_tokens", &EngineStats::decode_tokens)
      .def_readonly("prefill_seconds", &EngineStats::prefill_seconds)
      .def_readonly("decode_seconds", &EngineStats::decode_seconds)
      .def_readonly("decode_bytes", &EngineStats::decode_bytes)
      .def_readonly("allocations", &EngineStats::allocations)
      .def_readonly("loop_steps", &EngineStats::loop_steps)
      .def_readonly("graph_builds", &EngineStats::graph_builds)
      .def_readonly("graph_nodes", &EngineStats::graph_nodes)
      .def_readonly("device_waits", &EngineStats::device_waits)
      .def("__repr__", repr_of({"steps", "prefill_tokens", "decode_tokens", "prefill_seconds",
                                "decode_seconds", "decode_bytes", "allocations", "loop_steps",
                                "graph_builds", "graph_nodes", "device_waits"}));
  py::class_<MemoryPrediction>(module, "MemoryPrediction",
                               "Bytes an engine will need, from the configuration alone.")
      .def_readonly("weights", &MemoryPrediction::weights)
      .def_readonly("scratch", &MemoryPrediction::scratch)
      .def_readonly("runtime", &MemoryPrediction::runtime)
      .def_readonly("kv_per_sequence", &MemoryPrediction::kv_per_sequence)
      .def_readonly("largest_kv", &MemoryPrediction::largest_kv)
      .def_readonly("dense_kv_per_sequence", &MemoryPrediction::dense_kv_per_sequence)
      .def_readonly("kv_per_layer", &MemoryPrediction::kv_per_layer)
      .def(
          "total",
          [](const MemoryPrediction& p, py::handle sequences) {
            return p.total(to_int(sequences, "sequences", 0, 1 << 20));
          },
          py::arg("sequences") = 1, "Bytes with this many sequences of full length.")
      .def("__repr__",
           repr_of({"weights", "scratch", "runtime", "kv_per_sequence", "dense_kv_per_sequence"}));
}

}  // namespace

void bind_results(py::module_& module) {
  bind_events(module);
  bind_figures(module);
}

}  // namespace moa_rt::bindings
