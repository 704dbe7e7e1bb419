// moa_rt._core: the C++ library in Python. Each bind_*.cc holds one subject.
#include "bindings/bindings.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "C++ core of moa_rt.";
  module.attr("__version__") = MOA_RT_VERSION;
  moa_rt::bindings::bind_errors(module);
  moa_rt::bindings::bind_types(module);
  moa_rt::bindings::bind_span(module);
  moa_rt::bindings::bind_plan(module);
  moa_rt::bindings::bind_model(module);
  moa_rt::bindings::bind_io(module);
  moa_rt::bindings::bind_tokenizer(module);
  moa_rt::bindings::bind_options(module);
  moa_rt::bindings::bind_results(module);
  moa_rt::bindings::bind_engine(module);
  moa_rt::bindings::bind_trace(module);
}
