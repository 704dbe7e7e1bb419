// EngineOptions and RequestOptions.
#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/bound_plan.h"
#include "bindings/option_class.h"
#include "moa_rt/engine.h"

namespace moa_rt::bindings {
namespace {

std::optional<BoundPlan> get_plan(const EngineOptions& options) {
  if (!options.plan) return std::nullopt;
  return BoundPlan(*options.plan);
}

void set_plan(EngineOptions& options, py::handle value) {
  if (value.is_none()) {
    options.plan.reset();
  } else if (py::isinstance<BoundPlan>(value)) {
    options.plan = value.cast<const BoundPlan&>().plan;
  } else {
    options.plan = AttentionPlan::load(to_path(value, "plan"));
  }
}

void bind_engine_options(py::module_& module) {
  using O = EngineOptions;
  OptionClass<O>(module, "EngineOptions", "How an engine is opened. See moa_rt.Engine.")
      .field("plan", &get_plan, &set_plan)
      .flag("force_plan", &O::force_plan)
      .text("device", &O::device)
      .text("dtype", &O::dtype)
      .integer("max_batch", &O::max_batch)
      .integer("max_queue", &O::max_queue)
      .optional_integer("max_seq_len", &O::max_seq_len)
      .integer("prefill_chunk", &O::prefill_chunk)
      .optional_integer("num_threads", &O::num_threads)
      .optional_integer("kv_cache_bytes", &O::kv_cache_bytes)
      .text("cpu_isa", &O::cpu_isa);
}

void set_stop(RequestOptions& options, py::handle value) {
  std::vector<std::string> stop;
  if (PyUnicode_Check(value.ptr())) {
    stop.push_back(to_text(value, "stop"));
  } else if (PyList_Check(value.ptr()) || PyTuple_Check(value.ptr())) {
    for (const py::handle text : value) {
      stop.push_back(to_text(text, "stop[" + std::to_string(stop.size()) + "]"));
    }
  } else if (!value.is_none()) {
    refuse("stop", value, "a str or a list of str");
  }
  options.stop = std::move(stop);
}

void set_logit_bias(RequestOptions& options, py::handle value) {
  std::vector<std::pair<std::int64_t, double>> bias;
  if (!value.is_none()) {
    if (!PyDict_Check(value.ptr())) refuse("logit_bias", value, "{token id: bias}");
    for (const auto& [id, amount] : py::reinterpret_borrow<py::dict>(value)) {
      bias.emplace_back(to_int(id, "logit_bias key"), to_double(amount, "logit_bias value"));
    }
  }
  options.sampling.logit_bias = std::move(bias);
}

py::dict get_logit_bias(const RequestOptions& options) {
  py::dict out;
  for (const auto& [id, amount] : options.sampling.logit_bias) out[py::int_(id)] = amount;
  return out;
}

// Members of the nested SamplingOptions: Python has one flat class.
template <typename T>
auto sampling_get(T SamplingOptions::*member) {
  return [member](const RequestOptions& o) { return o.sampling.*member; };
}
auto sampling_set(double SamplingOptions::*member, const char* name) {
  return
      [member, name](RequestOptions& o, py::handle v) { o.sampling.*member = to_double(v, name); };
}

void add_sampling(OptionClass<RequestOptions>& options) {
  using S = SamplingOptions;
  const auto number = [&](const char* name, double S::*member) {
    options.field(name, sampling_get(member), sampling_set(member, name));
  };
  number("temperature", &S::temperature);
  options.field("top_k", sampling_get(&S::top_k), [](RequestOptions& o, py::handle v) {
    o.sampling.top_k = v.is_none() ? 0 : to_int(v, "top_k");
  });
  number("top_p", &S::top_p);
  number("min_p", &S::min_p);
  number("repetition_penalty", &S::repetition_penalty);
  number("presence_penalty", &S::presence_penalty);
  number("frequency_penalty", &S::frequency_penalty);
  options.field("logit_bias", &get_logit_bias, &set_logit_bias);
  options.field("seed", sampling_get(&S::seed), [](RequestOptions& o, py::handle v) {
    o.sampling.seed.reset();
    if (!v.is_none()) o.sampling.seed = to_uint64(v, "seed");
  });
}

void bind_request_options(py::module_& module) {
  using O = RequestOptions;
  OptionClass<O> options(module, "RequestOptions",
                         "How one request is answered. See moa_rt.Engine.generate.");
  options.field(
      "max_new_tokens", [](const O& o) { return o.max_new_tokens; },
      [](O& o, py::handle v) {
        o.max_new_tokens.reset();
        if (!v.is_none()) o.max_new_tokens = to_int(v, "max_new_tokens");
      });
  options.integer("min_new_tokens", &O::min_new_tokens);
  add_sampling(options);
  options.field(
             "stop", [](const O& o) { return o.stop; }, &set_stop)
      .field(
          "stop_token_ids", [](const O& o) { return o.stop_token_ids; },
          [](O& o, py::handle v) {
            o.stop_token_ids =
                v.is_none() ? std::vector<std::int64_t>() : to_int_list(v, "stop_token_ids");
          })
      .flag("ignore_eos", &O::ignore_eos)
      .flag("truncate_left", &O::truncate_left)
      .field(
          "logprobs",
          [](const O& o) {
            return o.logprobs < 0 ? std::nullopt : std::optional<std::int64_t>(o.logprobs);
          },
          [](O& o, py::handle v) {
            constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
            o.logprobs = v.is_none() ? -1 : to_int(v, "logprobs", 0, kMax);
          })
      .number("deadline_seconds", &O::deadline_seconds)
      .field(
          "session", [](const O& o) { return o.session; },
          [](O& o, py::handle v) {
            o.session.reset();
            if (!v.is_none()) o.session = to_uint64(v, "session");
          });
}

}  // namespace

void bind_options(py::module_& module) {
  bind_engine_options(module);
  bind_request_options(module);
}

}  // namespace moa_rt::bindings
