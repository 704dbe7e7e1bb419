// Engine: the calls, with their arguments checked. moa_rt/engine.py is the class that people use.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "bindings/bound_engine.h"
#include "bindings/bound_plan.h"

namespace moa_rt::bindings {
namespace {

// Token ids of this engine's vocabulary; `name` and the position lead the message (G2).
std::vector<std::int32_t> to_prompt(const BoundEngine& self, py::handle value,
                                    const std::string& name) {
  std::vector<std::int32_t> tokens = to_token_ids(value, name);
  const std::int64_t vocab = self.engine().config().vocab_size;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < vocab) continue;
    refuse(name + "[" + std::to_string(i) + "]", std::to_string(tokens[i]),
           "0.." + std::to_string(vocab - 1));
  }
  if (tokens.empty()) refuse(name, "0 tokens", "at least 1");
  return tokens;
}

std::vector<Completion> generate(BoundEngine& self, py::handle prompts, py::handle options,
                                 const py::object& on_token) {
  if (!PyList_Check(prompts.ptr())) refuse("prompts", prompts, "a list of lists of token ids");
  if (!PyList_Check(options.ptr())) refuse("options", options, "a list of RequestOptions");
  if (!on_token.is_none() && !PyCallable_Check(on_token.ptr())) {
    refuse("on_token", on_token, "a function or None");
  }
  std::vector<std::vector<std::int32_t>> tokens;
  for (const py::handle prompt : prompts) {
    tokens.push_back(to_prompt(self, prompt, "prompts[" + std::to_string(tokens.size()) + "]"));
  }
  std::vector<RequestOptions> list;
  for (const py::handle each : options) list.push_back(each.cast<RequestOptions>());
  return self.generate(tokens, list, on_token);
}

py::array_t<float> to_array(std::vector<float>&& values, std::vector<py::ssize_t> shape) {
  auto* owner = new std::vector<float>(std::move(values));
  const py::capsule base(owner, [](void* p) { delete static_cast<std::vector<float>*>(p); });
  return py::array_t<float>(std::move(shape), owner->data(), base);
}

py::array_t<float> score(BoundEngine& self, py::handle token_ids, py::handle budget) {
  const std::vector<std::int32_t> tokens = to_prompt(self, token_ids, "token_ids");
  const std::int64_t n = budget.is_none() ? 0 : to_int(budget, "budget", 1, kMaxTokens);
  std::vector<float> out = self.work_alone([&] { return self.engine().score(tokens, n); });
  const auto count = static_cast<py::ssize_t>(out.size());
  return to_array(std::move(out), {count});
}

py::array_t<float> logits(BoundEngine& self, py::handle token_ids, py::handle budget) {
  const std::vector<std::int32_t> tokens = to_prompt(self, token_ids, "token_ids");
  const std::int64_t n = budget.is_none() ? 0 : to_int(budget, "budget", 1, kMaxTokens);
  std::vector<float> out = self.work_alone([&] { return self.engine().logits(tokens, n); });
  const auto rows = static_cast<py::ssize_t>(tokens.size());
  return to_array(std::move(out),
                  {rows, static_cast<py::ssize_t>(self.engine().config().vocab_size)});
}

void bind_requests(py::class_<BoundEngine>& engine) {
  engine.def("generate", &generate, py::arg("prompts"), py::arg("options"), py::arg("on_token"))
      .def("score", &score, py::arg("token_ids"), py::arg("budget"))
      .def("logits", &logits, py::arg("token_ids"), py::arg("budget"))
      .def(
          "submit",
          [](BoundEngine& self, py::handle prompt, const RequestOptions& options) {
            const std::vector<std::int32_t> tokens = to_prompt(self, prompt, "prompt");
            return self.work([&] { return self.engine().submit(tokens, options); });
          },
          py::arg("prompt"), py::arg("options"))
      .def("step",
           [](BoundEngine& self) { return self.work([&] { return self.engine().step(); }); })
      .def(
          "cancel",
          [](BoundEngine& self, py::handle request) {
            self.engine().cancel(to_uint64(request, "request"));
          },
          py::arg("request"))
      .def("has_work",
           [](BoundEngine& self) { return self.work([&] { return self.engine().has_work(); }); });
}

void bind_sessions(py::class_<BoundEngine>& engine) {
  engine
      .def(
          "open_session",
          [](BoundEngine& self, py::handle token_budget) {
            const std::int64_t budget = to_int(token_budget, "token_budget");
            return self.work([&] { return self.engine().open_session(budget); });
          },
          py::arg("token_budget"))
      .def(
          "close_session",
          [](BoundEngine& self, py::handle session) {
            const SessionId id = to_uint64(session, "session");
            self.work([&] { self.engine().close_session(id); });
          },
          py::arg("session"))
      .def(
          "session_length",
          [](BoundEngine& self, py::handle session) {
            const SessionId id = to_uint64(session, "session");
            return self.work([&] { return self.engine().session_length(id); });
          },
          py::arg("session"))
      .def(
          "rollback_session",
          [](BoundEngine& self, py::handle session, py::handle count) {
            const SessionId id = to_uint64(session, "session");
            const std::int64_t tokens = to_int(count, "count");
            self.work([&] { self.engine().rollback_session(id, tokens); });
          },
          py::arg("session"), py::arg("count"));
}

void bind_state(py::class_<BoundEngine>& engine) {
  engine.def("close", &BoundEngine::close)
      .def("shutdown", &BoundEngine::shutdown)
      .def_property_readonly("closed",
                             [](const BoundEngine& self) { return self.engine().closed(); })
      .def_property_readonly(
          "config",
          [](const BoundEngine& self) -> const ModelConfig& { return self.engine().config(); })
      .def_property_readonly("plan",
                             [](const BoundEngine& self) {
                               return BoundPlan(self.engine().plan(),
                                                self.engine().config().head_dim);
                             })
      .def_property_readonly(
          "tokenizer",
          [](const BoundEngine& self) -> const Tokenizer& { return self.engine().tokenizer(); })
      .def_property_readonly("options",
                             [](const BoundEngine& self) { return self.engine().options(); })
      .def_property_readonly(
          "memory",
          [](BoundEngine& self) { return self.work([&] { return self.engine().memory(); }); })
      .def_property_readonly("stats", [](BoundEngine& self) {
        return self.work([&] { return self.engine().stats(); });
      });
}

}  // namespace

void bind_engine(py::module_& module) {
  py::class_<BoundEngine> engine(module, "Engine", "The native engine behind moa_rt.Engine.");
  engine.def(py::init([](py::handle dir, const EngineOptions& options) {
               return std::make_unique<BoundEngine>(to_path(dir, "model_dir"), options);
             }),
             py::arg("model_dir"), py::arg("options"));
  bind_requests(engine);
  bind_sessions(engine);
  bind_state(engine);
  module.def(
      "predict_memory",
      [](py::handle dir, const EngineOptions& options) {
        return predict_memory(to_path(dir, "model_dir"), options);
      },
      py::arg("model_dir"), py::arg("options"),
      "Bytes an engine with these options will need; no weight is read.");
  module.def(
      "verify_model",
      [](py::handle dir) {
        const std::string path = to_path(dir, "model_dir");
        const py::gil_scoped_release release;
        verify_model(path);
      },
      py::arg("model_dir"),
      "Compares every file of a converted model with its SHA-256 in the manifest.");
}

}  // namespace moa_rt::bindings
