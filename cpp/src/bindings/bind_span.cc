// SpanRule, HeadSpan and the functions of span.h.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "bindings/span_arguments.h"
#include "moa_rt/plan.h"
#include "moa_rt/span.h"

namespace moa_rt::bindings {
namespace {

std::int64_t to_position(py::handle value, const char* name) {
  return to_int(value, name, 0, kMaxTokens);
}

double beta_of(const SpanRule& rule) { return static_cast<double>(rule.beta_q32) / 4294967296.0; }

HeadSpan make_head_span(py::handle sink, py::handle window) {
  return {to_position(sink, "sink"), to_int(window, "window", 1, 2 * kMaxTokens)};
}

void bind_classes(py::module_& module) {
  py::class_<SpanRule>(
      module, "SpanRule",
      "span(N) = alpha + beta * N tokens, bounded by max_span where that is not 0.")
      .def(py::init([](py::handle alpha, py::handle beta, py::handle max_span) {
             return make_rule(alpha, beta, max_span, "");
           }),
           py::arg("alpha"), py::arg("beta"), py::arg("max_span") = 0)
      .def_readonly("alpha", &SpanRule::alpha)
      .def_property_readonly("beta", &beta_of)
      .def_readonly("beta_q32", &SpanRule::beta_q32)
      .def_readonly("max_span", &SpanRule::max_span)
      .def(
          "__eq__", [](const SpanRule& a, const SpanRule& b) { return a == b; }, py::is_operator())
      .def("__hash__",
           [](const SpanRule& r) {
             return py::hash(py::make_tuple(r.alpha, r.beta_q32, r.max_span));
           })
      .def("__repr__", [](const SpanRule& r) {
        return "SpanRule(alpha=" + std::to_string(r.alpha) +
               ", beta=" + beta_to_string(r.beta_q32) + ", max_span=" + std::to_string(r.max_span) +
               ")";
      });
  py::class_<HeadSpan>(module, "HeadSpan", "What one KV head keeps of one sequence, in tokens.")
      .def(py::init(&make_head_span), py::arg("sink"), py::arg("window"))
      .def_readonly("sink", &HeadSpan::sink)
      .def_readonly("window", &HeadSpan::window)
      .def_property_readonly("span", &HeadSpan::span)
      .def(
          "__eq__", [](const HeadSpan& a, const HeadSpan& b) { return a == b; }, py::is_operator())
      .def("__hash__", [](const HeadSpan& h) { return py::hash(py::make_tuple(h.sink, h.window)); })
      .def("__repr__", [](const HeadSpan& h) {
        return "HeadSpan(sink=" + std::to_string(h.sink) + ", window=" + std::to_string(h.window) +
               ")";
      });
}

}  // namespace

SpanRule make_rule(py::handle alpha, py::handle beta, py::handle max_span,
                   const std::string& item) {
  const std::string prefix = item.empty() ? "" : item + ".";
  SpanRule rule;
  rule.alpha = to_int(alpha, prefix + "alpha", -kMaxTokens, kMaxTokens);
  rule.beta_q32 = beta_to_q32(to_double(beta, prefix + "beta"));
  rule.max_span = max_span.is_none() ? 0 : to_int(max_span, prefix + "max_span", 0, kMaxTokens);
  return rule;
}

void bind_span(py::module_& module) {
  bind_classes(module);
  module.attr("MAX_TOKENS") = kMaxTokens;
  module.def(
      "resolve_span",
      [](const SpanRule& rule, py::handle sink, py::handle rounding, py::handle n) {
        return resolve_span(rule, to_position(sink, "sink"),
                            to_int(rounding, "rounding", 1, kMaxTokens),
                            to_int(n, "n", 1, kMaxTokens));
      },
      py::arg("rule"), py::arg("sink"), py::arg("rounding"), py::arg("n"),
      "Span of a rule for a sequence with a budget of n tokens, prompt and new ones.");
  module.def(
      "slot_of",
      [](const HeadSpan& head, py::handle position) {
        return slot_of(head, to_position(position, "position"));
      },
      py::arg("head"), py::arg("position"), "Cache slot of a position.");
  module.def(
      "visible",
      [](const HeadSpan& head, py::handle q, py::handle k) {
        return visible(head, to_position(q, "q"), to_position(k, "k"));
      },
      py::arg("head"), py::arg("q"), py::arg("k"),
      "Whether the query at position q sees the key at position k.");
  module.def(
      "window_start",
      [](const HeadSpan& head, py::handle q) { return window_start(head, to_position(q, "q")); },
      py::arg("head"), py::arg("q"),
      "First position the window of query q reaches back to; the sink is extra.");
  module.def(
      "filled_slots",
      [](const HeadSpan& head, py::handle length) {
        return filled_slots(head, to_position(length, "length"));
      },
      py::arg("head"), py::arg("length"), "Slots in use after positions [0, length).");
}

}  // namespace moa_rt::bindings
