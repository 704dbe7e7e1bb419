// ModelConfig and RopeConfig.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "moa_rt/model_config.h"

namespace moa_rt::bindings {
namespace {

const char* rope_type_name(RopeType type) {
  switch (type) {
    case RopeType::kDefault:
      return "default";
    case RopeType::kLinear:
      return "linear";
    case RopeType::kLlama3:
      return "llama3";
  }
  return "default";
}

std::optional<std::string> torch_dtype(const ModelConfig& config) {
  if (!config.torch_dtype) return std::nullopt;
  return dtype_name(*config.torch_dtype);
}

std::string config_repr(const ModelConfig& c) {
  return "ModelConfig(model_type=" + quoted(c.model_type) +
         ", num_hidden_layers=" + std::to_string(c.num_hidden_layers) +
         ", hidden_size=" + std::to_string(c.hidden_size) +
         ", num_attention_heads=" + std::to_string(c.num_attention_heads) +
         ", num_key_value_heads=" + std::to_string(c.num_key_value_heads) +
         ", head_dim=" + std::to_string(c.head_dim) +
         ", vocab_size=" + std::to_string(c.vocab_size) + ")";
}

void bind_rope(py::module_& module) {
  py::class_<RopeConfig>(module, "RopeConfig",
                         "Rotary position embedding (arXiv 2104.09864) and its scaling.")
      .def_property_readonly("type", [](const RopeConfig& r) { return rope_type_name(r.type); })
      .def_readonly("theta", &RopeConfig::theta)
      .def_readonly("factor", &RopeConfig::factor)
      .def_readonly("low_freq_factor", &RopeConfig::low_freq_factor)
      .def_readonly("high_freq_factor", &RopeConfig::high_freq_factor)
      .def_readonly("original_max_position_embeddings",
                    &RopeConfig::original_max_position_embeddings)
      .def("__repr__", [](const RopeConfig& r) {
        return "RopeConfig(type=" + quoted(rope_type_name(r.type)) +
               ", theta=" + py::cast<std::string>(py::repr(py::float_(r.theta))) +
               ", factor=" + py::cast<std::string>(py::repr(py::float_(r.factor))) + ")";
      });
}

}  // namespace

void bind_types(py::module_& module) {
  bind_rope(module);
  py::class_<ModelConfig>(
      module, "ModelConfig",
      "The shape of a decoder, in the field names of a Hugging Face config.json.")
      .def_static(
          "load", [](py::handle dir) { return ModelConfig::load(to_path(dir, "model_dir")); },
          py::arg("model_dir"),
          "Reads <model_dir>/config.json and, if it is there, the fingerprint of manifest.json.")
      .def_static(
          "parse",
          [](py::handle text, py::handle path) {
            return ModelConfig::parse(to_text(text, "text"), to_path(path, "path"));
          },
          py::arg("text"), py::arg("path") = "<string>",
          "Parses the text of a config.json; `path` is only for messages.")
      .def_readonly("model_type", &ModelConfig::model_type)
      .def_readonly("hidden_size", &ModelConfig::hidden_size)
      .def_readonly("intermediate_size", &ModelConfig::intermediate_size)
      .def_readonly("num_hidden_layers", &ModelConfig::num_hidden_layers)
      .def_readonly("num_attention_heads", &ModelConfig::num_attention_heads)
      .def_readonly("num_key_value_heads", &ModelConfig::num_key_value_heads)
      .def_readonly("head_dim", &ModelConfig::head_dim)
      .def_readonly("vocab_size", &ModelConfig::vocab_size)
      .def_readonly("max_position_embeddings", &ModelConfig::max_position_embeddings)
      .def_readonly("rms_norm_eps", &ModelConfig::rms_norm_eps)
      .def_readonly("rope", &ModelConfig::rope)
      .def_readonly("tie_word_embeddings", &ModelConfig::tie_word_embeddings)
      .def_readonly("attention_bias", &ModelConfig::attention_bias)
      .def_readonly("qk_norm", &ModelConfig::qk_norm)
      .def_property_readonly("torch_dtype", &torch_dtype)
      .def_readonly("bos_token_id", &ModelConfig::bos_token_id)
      .def_readonly("eos_token_ids", &ModelConfig::eos_token_ids)
      .def_readonly("fingerprint", &ModelConfig::fingerprint)
      .def_property_readonly("query_size", &ModelConfig::query_size)
      .def_property_readonly("kv_size", &ModelConfig::kv_size)
      .def_property_readonly("qkv_size", &ModelConfig::qkv_size)
      .def("__repr__", &config_repr);
}

}  // namespace moa_rt::bindings
