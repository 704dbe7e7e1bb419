// A struct of options as a Python class with keyword arguments: every field is a checked property,
// and the constructor sets properties, so a field is named once.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/arguments.h"

namespace moa_rt::bindings {

template <typename T>
class OptionClass {
 public:
  OptionClass(py::module_& module, const char* name, const char* doc)
      : class_(module, name, doc), name_(name) {
    class_.def(py::init([name = name_](const py::kwargs& values) {
      const py::object options = py::cast(T{});
      for (const auto& [key, value] : values) {
        if (!options.attr("FIELDS").contains(key)) {
          throw py::type_error(name + "() got an unexpected keyword argument " +
                               py::cast<std::string>(py::repr(key)));
        }
        py::setattr(options, key, value);
      }
      return options.template cast<T>();
    }));
    class_.def("__repr__", [name = name_](const py::object& self) {
      std::string text;
      for (const py::handle field : self.attr("FIELDS")) {
        if (!text.empty()) text += ", ";
        text += py::cast<std::string>(field) + "=";
        text += py::cast<std::string>(py::repr(self.attr(field)));
      }
      return name + "(" + text + ")";
    });
    class_.attr("FIELDS") = py::tuple();
  }

  // get(const T&) -> value, set(T&, py::handle).
  template <typename Get, typename Set>
  OptionClass& field(const char* name, Get get, Set set) {
    class_.def_property(name, get, set);
    const py::object fields = class_.attr("FIELDS");
    class_.attr("FIELDS") = fields + py::make_tuple(name);
    return *this;
  }

  // Plain members.
  OptionClass& number(const char* name, double T::*member) {
    return field(
        name, [member](const T& o) { return o.*member; },
        [member, name](T& o, py::handle v) { o.*member = to_double(v, name); });
  }
  OptionClass& integer(const char* name, std::int64_t T::*member) {
    return field(
        name, [member](const T& o) { return o.*member; },
        [member, name](T& o, py::handle v) { o.*member = to_int(v, name); });
  }
  // None in Python is 0 in C++.
  OptionClass& optional_integer(const char* name, std::int64_t T::*member) {
    return field(
        name,
        [member](const T& o) {
          return o.*member == 0 ? std::nullopt : std::optional<std::int64_t>(o.*member);
        },
        [member, name](T& o, py::handle v) { o.*member = v.is_none() ? 0 : to_int(v, name, 1); });
  }
  OptionClass& flag(const char* name, bool T::*member) {
    return field(
        name, [member](const T& o) { return o.*member; },
        [member, name](T& o, py::handle v) { o.*member = to_bool(v, name); });
  }
  OptionClass& text(const char* name, std::string T::*member) {
    return field(
        name, [member](const T& o) { return o.*member; },
        [member, name](T& o, py::handle v) { o.*member = to_text(v, name); });
  }

 private:
  py::class_<T> class_;
  std::string name_;
};

}  // namespace moa_rt::bindings
