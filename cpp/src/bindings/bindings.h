// The parts of moa_rt._core, in the order in which they must be registered.
#pragma once

#include <pybind11/pybind11.h>

namespace moa_rt::bindings {

void bind_errors(pybind11::module_& module);
void bind_types(pybind11::module_& module);
void bind_span(pybind11::module_& module);
void bind_plan(pybind11::module_& module);
void bind_model(pybind11::module_& module);
void bind_io(pybind11::module_& module);
void bind_tokenizer(pybind11::module_& module);
void bind_options(pybind11::module_& module);
void bind_results(pybind11::module_& module);
void bind_engine(pybind11::module_& module);
void bind_trace(pybind11::module_& module);

}  // namespace moa_rt::bindings
