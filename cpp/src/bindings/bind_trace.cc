// trace(): what the layers of an engine computed. moa_rt.Engine.trace is what people use.
#include <pybind11/numpy.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "bindings/bound_engine.h"

namespace moa_rt::bindings {
namespace {

py::array_t<float> to_array(std::vector<float>&& values, std::vector<py::ssize_t> shape) {
  auto* owner = new std::vector<float>(std::move(values));
  const py::capsule base(owner, [](void* p) { delete static_cast<std::vector<float>*>(p); });
  return py::array_t<float>(std::move(shape), owner->data(), base);
}

py::tuple trace(BoundEngine& self, py::handle token_ids, py::handle layer_begin,
                py::handle layer_end, py::handle logit_positions, py::handle decode_from,
                py::handle budget) {
  const std::vector<std::int32_t> tokens = to_token_ids(token_ids, "token_ids");
  TraceOptions options;
  options.budget = budget.is_none() ? 0 : to_int(budget, "budget", 1, kMaxTokens);
  options.decode_from =
      decode_from.is_none() ? -1 : to_int(decode_from, "decode_from", 0, kMaxTokens);
  options.layer_begin = to_int(layer_begin, "layers", 0);
  options.layer_end = to_int(layer_end, "layers", 0);
  options.logit_positions = to_int_list(logit_positions, "logit_positions");
  Trace out = self.work_alone([&] { return self.engine().trace(tokens, options); });
  const ModelConfig& config = self.engine().config();
  const py::ssize_t layers = options.layer_end - options.layer_begin;
  const auto length = static_cast<py::ssize_t>(tokens.size());
  const auto rows = static_cast<py::ssize_t>(options.logit_positions.size());
  return py::make_tuple(
      to_array(std::move(out.qkv),
               {layers, length, config.num_attention_heads + 2 * config.num_key_value_heads,
                config.head_dim}),
      to_array(std::move(out.attention),
               {layers, length, config.num_attention_heads, config.head_dim}),
      to_array(std::move(out.logits), {rows, config.vocab_size}));
}

}  // namespace

void bind_trace(py::module_& module) {
  module.def("trace", &trace, py::arg("engine"), py::arg("token_ids"), py::arg("layer_begin"),
             py::arg("layer_end"), py::arg("logit_positions"), py::arg("decode_from"),
             py::arg("budget"), "What the layers of an engine computed in one pass over a text.");
}

}  // namespace moa_rt::bindings
