// Tokenizer and IncrementalDetokenizer.
#include <pybind11/stl.h>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "bindings/tokenizer_arguments.h"
#include "moa_rt/tokenizer.h"

namespace moa_rt::bindings {
namespace {

std::vector<std::int32_t> encode(const Tokenizer& tokenizer, py::handle text,
                                 py::handle add_special, py::handle allow_special) {
  const std::string utf8 = to_text(text, "text");
  const bool add = to_bool(add_special, "add_special");
  const bool allow = to_bool(allow_special, "allow_special");
  const py::gil_scoped_release release;
  return tokenizer.encode(utf8, add, allow);
}

std::string decode(const Tokenizer& tokenizer, py::handle ids, py::handle skip_special) {
  const std::vector<std::int32_t> tokens = to_token_ids(ids, "ids");
  const bool skip = to_bool(skip_special, "skip_special");
  const py::gil_scoped_release release;
  return tokenizer.decode(tokens, skip);
}

void bind_class(py::module_& module) {
  py::class_<Tokenizer>(module, "Tokenizer",
                        "Text to token ids and back, from a Hugging Face tokenizer.json.")
      .def_static(
          "load", [](py::handle dir) { return Tokenizer::load(to_path(dir, "model_dir")); },
          py::arg("model_dir"), "Reads <model_dir>/tokenizer.json and tokenizer_config.json.")
      .def("encode", &encode, py::arg("text"), py::kw_only(), py::arg("add_special") = true,
           py::arg("allow_special") = false,
           "Token ids of a text. `add_special`: the tokenizer's own BOS or EOS. `allow_special`: "
           "the "
           "spelling of a special token inside the text becomes that token; otherwise it is text.")
      .def("decode", &decode, py::arg("ids"), py::kw_only(), py::arg("skip_special") = true,
           "Text of token ids; bytes that form no character become U+FFFD.")
      .def(
          "apply_chat_template",
          [](const Tokenizer& tokenizer, py::handle messages, py::handle add_generation_prompt) {
            return tokenizer.apply_chat_template(
                to_messages(messages, "messages"),
                to_bool(add_generation_prompt, "add_generation_prompt"));
          },
          py::arg("messages"), py::arg("add_generation_prompt") = true,
          "A conversation as the model was trained to read it: [{'role': ..., 'content': ...}].")
      .def(
          "encode_chat",
          [](const Tokenizer& tokenizer, py::handle messages, py::handle add_generation_prompt) {
            return tokenizer.encode_chat(to_messages(messages, "messages"),
                                         to_bool(add_generation_prompt, "add_generation_prompt"));
          },
          py::arg("messages"), py::arg("add_generation_prompt") = true,
          "The same as ids: the template's markers become special tokens, contents never do.")
      .def_property_readonly("has_chat_template", &Tokenizer::has_chat_template)
      .def_property_readonly("vocab_size", &Tokenizer::vocab_size)
      .def_property_readonly("memory_bytes", &Tokenizer::memory_bytes)
      .def(
          "token_to_id",
          [](const Tokenizer& tokenizer, py::handle token) {
            return tokenizer.token_to_id(to_text(token, "token"));
          },
          py::arg("token"), "Id of a token's spelling in the vocabulary, or None.")
      .def(
          "id_to_token",
          [](const Tokenizer& tokenizer, py::handle id) {
            return tokenizer.id_to_token(to_id(id, "id"));
          },
          py::arg("id"), "Spelling of a token in the vocabulary.")
      .def(
          "is_special",
          [](const Tokenizer& tokenizer, py::handle id) {
            return tokenizer.is_special(to_id(id, "id"));
          },
          py::arg("id"), "Whether an id is a special token.")
      .def("__repr__", [](const Tokenizer& tokenizer) {
        return "Tokenizer(vocab_size=" + std::to_string(tokenizer.vocab_size()) + ")";
      });
}

}  // namespace

std::int32_t to_id(py::handle value, const std::string& name) {
  return static_cast<std::int32_t>(
      to_int(value, name, 0, std::numeric_limits<std::int32_t>::max()));
}

std::vector<ChatMessage> to_messages(py::handle value, const std::string& name) {
  if (!PyList_Check(value.ptr()) && !PyTuple_Check(value.ptr())) {
    refuse(name, value, "a list of messages");
  }
  std::vector<ChatMessage> messages;
  const auto list = py::reinterpret_borrow<py::sequence>(value);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string item = name + "[" + std::to_string(i) + "]";
    const py::object message = list[i];
    if (!PyDict_Check(message.ptr())) refuse(item, message, "{'role': ..., 'content': ...}");
    const auto dict = py::reinterpret_borrow<py::dict>(message);
    for (const auto& [key, unused] : dict) {
      const std::string field = to_text(key, item + " key");
      if (field != "role" && field != "content") refuse(item, key, "the keys 'role' and 'content'");
    }
    if (dict.size() != 2) refuse(item, message, "the keys 'role' and 'content'");
    messages.push_back({to_text(py::object(dict["role"]), item + ".role"),
                        to_text(py::object(dict["content"]), item + ".content")});
  }
  return messages;
}

void bind_tokenizer(py::module_& module) {
  bind_class(module);
  py::class_<IncrementalDetokenizer>(
      module, "IncrementalDetokenizer",
      "Turns a stream of ids into text; never emits part of a character.")
      .def(py::init([](const Tokenizer& tokenizer, py::handle skip_special) {
             return std::make_unique<IncrementalDetokenizer>(tokenizer,
                                                             to_bool(skip_special, "skip_special"));
           }),
           py::arg("tokenizer"), py::kw_only(), py::arg("skip_special") = true,
           py::keep_alive<1, 2>())
      .def(
          "push",
          [](IncrementalDetokenizer& self, py::handle id) { return self.push(to_id(id, "id")); },
          py::arg("id"), "Text that became certain with this id; may be empty.")
      .def("finish", &IncrementalDetokenizer::finish,
           "What was held back; an unfinished character becomes U+FFFD.");
}

}  // namespace moa_rt::bindings
