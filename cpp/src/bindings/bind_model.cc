// The weight manifest, the model fingerprint and checksums.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "io/sha256.h"
#include "model/model_manifest.h"
#include "model/weight_manifest.h"

namespace moa_rt::bindings {
namespace {

py::tuple shape_tuple(const std::vector<std::int64_t>& shape) { return py::tuple(py::cast(shape)); }

// The names of safetensors or those of types.h.
DType to_dtype(py::handle value, const std::string& name) {
  const std::string text = to_text(value, name);
  if (text == "F32") return DType::kF32;
  if (text == "BF16") return DType::kBF16;
  if (text == "F16") return DType::kF16;
  return parse_dtype(text);
}

std::string fingerprint(const ModelConfig& config, const py::dict& digests) {
  std::vector<TensorDigest> list;
  for (const auto& [key, value] : digests) {
    const std::string name = to_text(key, "digests key");
    const std::string item = "digests[" + quoted(name) + "]";
    if (!PyTuple_Check(value.ptr()) || py::len(value) != 3) {
      refuse(item, value, "(dtype, shape, sha256)");
    }
    const auto parts = py::reinterpret_borrow<py::tuple>(value);
    list.push_back({name, to_dtype(parts[0], item + "[0]"), to_int_list(parts[1], item + "[1]"),
                    to_text(parts[2], item + "[2]")});
  }
  return model_fingerprint(config, list);
}

std::string sha256_file(py::handle path, py::handle offset, py::handle size) {
  const File file(to_path(path, "path"));
  const std::int64_t begin = to_int(offset, "offset", 0, file.size());
  const std::int64_t rest = file.size() - begin;
  const std::int64_t bytes = size.is_none() ? rest : to_int(size, "size", 0, rest);
  const py::gil_scoped_release release;
  return sha256_hex(file, begin, bytes);
}

void bind_manifest(py::module_& module) {
  py::class_<WeightSource>(
      module, "WeightSource",
      "A tensor of the Hugging Face checkpoint that becomes rows of one of ours.")
      .def_readonly("name", &WeightSource::name)
      .def_property_readonly("shape", [](const WeightSource& s) { return shape_tuple(s.shape); })
      .def("__repr__",
           [](const WeightSource& s) { return "WeightSource(name=" + quoted(s.name) + ")"; });
  py::class_<WeightSpec>(module, "WeightSpec",
                         "A tensor of the runtime's checkpoint: its sources stacked along axis 0.")
      .def_readonly("name", &WeightSpec::name)
      .def_property_readonly("shape", [](const WeightSpec& s) { return shape_tuple(s.shape); })
      .def_readonly("sources", &WeightSpec::sources)
      .def("__repr__",
           [](const WeightSpec& s) { return "WeightSpec(name=" + quoted(s.name) + ")"; });
  module.def("weight_manifest", &weight_manifest, py::arg("config"),
             "Every tensor of the model, in the order in which the file holds them.");
  module.def(
      "is_ignorable_source",
      [](py::handle name) { return is_ignorable_source(to_text(name, "name")); }, py::arg("name"),
      "Whether a Hugging Face checkpoint may hold this tensor without our needing it.");
}

void bind_checks(py::module_& module) {
  module.def("model_fingerprint", &fingerprint, py::arg("config"), py::arg("digests"),
             "SHA-256 over what a model computes: its config and, for every tensor of the weight "
             "manifest, digests[name] = (dtype, shape, sha256 of its bytes).");
  module.def("sha256_file", &sha256_file, py::arg("path"), py::arg("offset") = 0,
             py::arg("size") = py::none(), "SHA-256 in hex of a file or of a part of it.");
}

}  // namespace

void bind_model(py::module_& module) {
  bind_manifest(module);
  bind_checks(module);
}

}  // namespace moa_rt::bindings
