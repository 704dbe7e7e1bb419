// AttentionPlan.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "bindings/bound_plan.h"
#include "bindings/span_arguments.h"

namespace moa_rt::bindings {
namespace {

SpanRule to_rule(py::handle value, const std::string& item) {
  if (py::isinstance<SpanRule>(value)) return value.cast<SpanRule>();
  if (!PyList_Check(value.ptr()) && !PyTuple_Check(value.ptr())) {
    refuse(item, value, "(alpha, beta) or (alpha, beta, max_span)");
  }
  const auto parts = py::reinterpret_borrow<py::sequence>(value);
  if (parts.size() != 2 && parts.size() != 3) {
    refuse(item, std::to_string(parts.size()) + " values",
           "(alpha, beta) or (alpha, beta, max_span)");
  }
  const py::object none = py::none();
  return make_rule(py::object(parts[0]), py::object(parts[1]),
                   parts.size() == 3 ? py::object(parts[2]) : none, item);
}

std::vector<std::vector<SpanRule>> to_rules(py::handle value) {
  const auto rows = [](py::handle list, const std::string& item) {
    if (!PyList_Check(list.ptr()) && !PyTuple_Check(list.ptr())) {
      refuse(item, list, "a list");
    }
    return py::reinterpret_borrow<py::sequence>(list);
  };
  std::vector<std::vector<SpanRule>> rules;
  const py::sequence layers = rows(value, "rules");
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const std::string item = "rules[" + std::to_string(layer) + "]";
    const py::sequence heads = rows(py::object(layers[layer]), item);
    std::vector<SpanRule>& row = rules.emplace_back();
    for (std::size_t head = 0; head < heads.size(); ++head) {
      row.push_back(to_rule(py::object(heads[head]), item + "[" + std::to_string(head) + "]"));
    }
  }
  return rules;
}

BoundPlan from_rules(py::handle rules, py::handle sink_size, py::handle rounding,
                     py::handle min_length, py::handle max_length) {
  return BoundPlan(AttentionPlan::from_rules(
      to_rules(rules), to_int(sink_size, "sink_size"), to_int(rounding, "rounding"),
      to_int(min_length, "min_length"),
      max_length.is_none() ? kMaxTokens : to_int(max_length, "max_length")));
}

std::int64_t cache_bytes(BoundPlan& self, py::handle n, py::handle dtype,
                         const ModelConfig* config) {
  if (config != nullptr) self.head_dim = config->head_dim;
  if (self.head_dim == 0) {
    refuse("config", "None", "the model's config: this plan has not been matched with a model yet");
  }
  return self.plan.cache_bytes(to_int(n, "n"), self.head_dim, parse_dtype(to_text(dtype, "dtype")));
}

std::string repr(const BoundPlan& self) {
  const AttentionPlan& plan = self.plan;
  return "AttentionPlan(num_layers=" + std::to_string(plan.num_layers()) +
         ", num_kv_heads=" + std::to_string(plan.num_kv_heads()) +
         ", sink_size=" + std::to_string(plan.sink_size()) +
         ", rounding=" + std::to_string(plan.rounding()) +
         ", min_length=" + std::to_string(plan.min_length()) +
         ", max_length=" + std::to_string(plan.max_length()) +
         ", model_name=" + quoted(plan.model_name) + ")";
}

// Read-only: assigning to a copy's key would be lost without a word.
py::object read_only(const py::object& dict) {
  return py::module_::import("types").attr("MappingProxyType")(dict);
}

std::string get_out_of_range(const BoundPlan& self) {
  return self.plan.out_of_range == OutOfRange::kDense ? "dense" : "refuse";
}

void set_out_of_range(BoundPlan& self, py::handle value) {
  const std::string name = to_text(value, "out_of_range");
  if (name != "dense" && name != "refuse") refuse("out_of_range", value, "'dense' or 'refuse'");
  self.plan.out_of_range = name == "dense" ? OutOfRange::kDense : OutOfRange::kRefuse;
}

void set_provenance(BoundPlan& self, const py::dict& values) {
  std::map<std::string, std::string> map;
  for (const auto& [key, value] : values) {
    map[to_text(key, "provenance key")] = to_text(value, "provenance value");
  }
  self.plan.provenance = std::move(map);
}

void set_quality(BoundPlan& self, const py::dict& values) {
  std::map<std::string, double> map;
  for (const auto& [key, value] : values) {
    map[to_text(key, "quality key")] = to_double(value, "quality value");
  }
  self.plan.quality = std::move(map);
}

void bind_constructors(py::class_<BoundPlan>& plan) {
  plan.def_static(
          "dense",
          [](const ModelConfig& config) {
            return BoundPlan(AttentionPlan::dense(config), config.head_dim);
          },
          py::arg("config"), "Every head keeps everything.")
      .def_static(
          "uniform",
          [](const ModelConfig& config, py::handle density) {
            return BoundPlan(AttentionPlan::uniform(config, to_double(density, "density")),
                             config.head_dim);
          },
          py::arg("config"), py::arg("density"),
          "Every head keeps density * N tokens, 0 < density <= 1.")
      .def_static("from_rules", &from_rules, py::arg("rules"), py::kw_only(),
                  py::arg("sink_size") = AttentionPlan::kDefaultSink,
                  py::arg("rounding") = AttentionPlan::kDefaultRounding, py::arg("min_length") = 1,
                  py::arg("max_length") = py::none(),
                  "rules[layer][kv_head] = (alpha, beta) or (alpha, beta, max_span).")
      .def_static(
          "load",
          [](py::handle path) { return BoundPlan(AttentionPlan::load(to_path(path, "path"))); },
          py::arg("path"), "Reads a plan file of schema v1, at most 16 MiB.")
      .def_static(
          "parse",
          [](py::handle text, py::handle path) {
            return BoundPlan(AttentionPlan::parse(to_text(text, "text"), to_path(path, "path")));
          },
          py::arg("text"), py::arg("path") = "<string>",
          "Reads a plan from its JSON text; `path` is only for messages.");
}

void bind_lengths(py::class_<BoundPlan>& plan) {
  plan.def(
          "head_span",
          [](const BoundPlan& self, py::handle layer, py::handle head, py::handle n) {
            return self.plan.head_span(to_int(layer, "layer", 0, self.plan.num_layers() - 1),
                                       to_int(head, "kv_head", 0, self.plan.num_kv_heads() - 1),
                                       to_int(n, "n"));
          },
          py::arg("layer"), py::arg("kv_head"), py::arg("n"),
          "Span of one head for a sequence with a budget of n tokens.")
      .def(
          "spans",
          [](const BoundPlan& self, py::handle n) { return self.plan.spans(to_int(n, "n")); },
          py::arg("n"), "Spans of all heads: spans(n)[layer][kv_head].")
      .def("cache_bytes", &cache_bytes, py::arg("n"), py::arg("dtype") = "bfloat16",
           py::arg("config") = py::none(),
           "KV bytes of one sequence with a budget of n tokens. `config` is needed once by a plan "
           "that was not made from, checked against or run with a model.")
      .def(
          "density",
          [](const BoundPlan& self, py::handle n) { return self.plan.density(to_int(n, "n")); },
          py::arg("n"), "Kept KV bytes over those of a dense plan at n: a memory figure.");
}

void bind_checks(py::class_<BoundPlan>& plan) {
  plan.def(
          "check_model",
          [](BoundPlan& self, const ModelConfig& config, py::handle force) {
            self.plan.check_model(config, to_bool(force, "force"));
            self.head_dim = config.head_dim;
          },
          py::arg("config"), py::arg("force") = false,
          "Raises MismatchError if the plan's shape, or, unless `force`, its fingerprint is not "
          "the "
          "model's.")
      .def(
          "validate", [](const BoundPlan& self) { return self.plan.validate().clamped_heads; },
          "Raises FormatError for a rule that fails in the length range; returns the number of "
          "heads that are dense somewhere in it.")
      .def(
          "to_json", [](const BoundPlan& self) { return self.plan.to_json(); },
          "The text of the plan file; equal plans give equal text.")
      .def(
          "save",
          [](const BoundPlan& self, py::handle path) { self.plan.save(to_path(path, "path")); },
          py::arg("path"), "Writes the plan file; it is never left half-written.");
}

}  // namespace

void bind_plan(py::module_& module) {
  py::class_<BoundPlan> plan(module, "AttentionPlan",
                             "One span rule per (layer, KV head), and where the plan comes from.");
  bind_constructors(plan);
  bind_lengths(plan);
  bind_checks(plan);
  plan.attr("SCHEMA_VERSION") = AttentionPlan::kSchemaVersion;
  plan.def_property_readonly("num_layers", [](const BoundPlan& s) { return s.plan.num_layers(); })
      .def_property_readonly("num_kv_heads",
                             [](const BoundPlan& s) { return s.plan.num_kv_heads(); })
      .def_property_readonly("rules", [](const BoundPlan& s) { return s.plan.rules(); })
      .def_property_readonly("sink_size", [](const BoundPlan& s) { return s.plan.sink_size(); })
      .def_property_readonly("rounding", [](const BoundPlan& s) { return s.plan.rounding(); })
      .def_property_readonly("min_length", [](const BoundPlan& s) { return s.plan.min_length(); })
      .def_property_readonly("max_length", [](const BoundPlan& s) { return s.plan.max_length(); })
      .def_property("out_of_range", &get_out_of_range, &set_out_of_range)
      .def_property(
          "fingerprint", [](const BoundPlan& s) { return s.plan.fingerprint; },
          [](BoundPlan& s, py::handle v) { s.plan.fingerprint = to_text(v, "fingerprint"); })
      .def_property(
          "model_name", [](const BoundPlan& s) { return s.plan.model_name; },
          [](BoundPlan& s, py::handle v) { s.plan.model_name = to_text(v, "model_name"); })
      .def_property(
          "provenance", [](const BoundPlan& s) { return read_only(py::cast(s.plan.provenance)); },
          &set_provenance)
      .def_property(
          "quality", [](const BoundPlan& s) { return read_only(py::cast(s.plan.quality)); },
          &set_quality)
      .def_property_readonly(
          "extensions", [](const BoundPlan& s) { return read_only(py::cast(s.plan.extensions)); })
      .def(
          "__eq__", [](const BoundPlan& a, const BoundPlan& b) { return a.plan == b.plan; },
          py::is_operator())
      .def("__repr__", &repr)
      .def(py::pickle(
          [](const BoundPlan& s) { return py::make_tuple(s.plan.to_json(), s.head_dim); },
          [](const py::tuple& state) {
            return BoundPlan(AttentionPlan::parse(state[0].cast<std::string>(), "<pickle>"),
                             state[1].cast<std::int64_t>());
          }));
}

}  // namespace moa_rt::bindings
