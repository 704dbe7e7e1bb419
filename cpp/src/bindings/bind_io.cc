// SafetensorsFile.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "io/safetensors.h"

namespace moa_rt::bindings {
namespace {

py::bytes read_tensor(const SafetensorsFile& file, py::handle name, py::handle offset,
                      py::handle size) {
  const std::string key = to_text(name, "name");
  const TensorInfo* tensor = file.find(key);
  if (tensor == nullptr) refuse("name", name, "a tensor of " + file.path());
  const std::int64_t begin = to_int(offset, "offset", 0, tensor->bytes);
  const std::int64_t rest = tensor->bytes - begin;
  const std::int64_t count = size.is_none() ? rest : to_int(size, "size", 0, rest);
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, count);
  if (bytes == nullptr) throw py::error_already_set();
  auto out = py::reinterpret_steal<py::bytes>(bytes);
  auto* data = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes));
  const py::gil_scoped_release release;
  file.read(*tensor, begin, {data, static_cast<std::size_t>(count)});
  return out;
}

void bind_safetensors(py::module_& module) {
  py::class_<TensorInfo>(module, "TensorInfo", "One tensor of a safetensors file.")
      .def_readonly("name", &TensorInfo::name)
      .def_readonly("dtype", &TensorInfo::dtype)
      .def_property_readonly("shape",
                             [](const TensorInfo& t) { return py::tuple(py::cast(t.shape)); })
      .def_readonly("file_offset", &TensorInfo::file_offset)
      .def_readonly("bytes", &TensorInfo::bytes)
      .def("__repr__", [](const TensorInfo& t) {
        return "TensorInfo(name=" + quoted(t.name) + ", dtype=" + quoted(t.dtype) +
               ", shape=" + py::cast<std::string>(py::repr(py::tuple(py::cast(t.shape)))) + ")";
      });
  py::class_<SafetensorsFile>(module, "SafetensorsFile",
                              "Strict reader of a safetensors file. The whole header is checked "
                              "before anything else is read.")
      .def(py::init([](py::handle path) {
             return std::make_unique<SafetensorsFile>(to_path(path, "path"));
           }),
           py::arg("path"))
      .def_property_readonly("path", &SafetensorsFile::path)
      .def_property_readonly("tensors", &SafetensorsFile::tensors)
      .def_property_readonly("metadata", &SafetensorsFile::metadata)
      .def(
          "find",
          [](const SafetensorsFile& file, py::handle name) -> std::optional<TensorInfo> {
            const TensorInfo* tensor = file.find(to_text(name, "name"));
            if (tensor == nullptr) return std::nullopt;
            return *tensor;
          },
          py::arg("name"), "The tensor of this name, or None.")
      .def("read", &read_tensor, py::arg("name"), py::arg("offset") = 0,
           py::arg("size") = py::none(),
           "Bytes [offset, offset + size) of a tensor; without size all that follow.");
}

}  // namespace

void bind_io(py::module_& module) { bind_safetensors(module); }

}  // namespace moa_rt::bindings
