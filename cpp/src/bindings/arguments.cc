#include "bindings/arguments.h"

#include <cstring>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt::bindings {
namespace {

bool is_bool(py::handle value) {
  // numpy.bool is no subclass of bool and, on old versions, has __index__.
  return PyBool_Check(value.ptr()) ||
         std::strncmp(Py_TYPE(value.ptr())->tp_name, "numpy.bool", 10) == 0;
}

py::object as_index(py::handle value, const std::string& name) {
  if (is_bool(value) || !PyIndex_Check(value.ptr())) refuse(name, value, "an integer");
  PyObject* index = PyNumber_Index(value.ptr());
  if (index == nullptr) {
    PyErr_Clear();
    refuse(name, value, "an integer");
  }
  return py::reinterpret_steal<py::object>(index);
}

// One element of a typed buffer, read byte by byte because it may be unaligned or byte-swapped.
std::int64_t read_element(const unsigned char* data, std::int64_t size, bool big_endian,
                          bool is_signed, const std::string& name, std::int64_t position) {
  std::uint64_t bits = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t byte = big_endian ? i : size - 1 - i;
    bits = (bits << 8) | data[byte];
  }
  if (is_signed) {
    const int shift = static_cast<int>(64 - 8 * size);
    return static_cast<std::int64_t>(bits << shift) >> shift;
  }
  if (bits > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    refuse(name + "[" + std::to_string(position) + "]", std::to_string(bits), "a token id");
  }
  return static_cast<std::int64_t>(bits);
}

struct BufferGuard {
  Py_buffer view{};
  ~BufferGuard() { PyBuffer_Release(&view); }
};

std::vector<std::int64_t> from_buffer(py::handle value, const std::string& name) {
  const std::string want = "a list, a tuple or a one-dimensional integer array";
  BufferGuard guard;
  if (PyObject_GetBuffer(value.ptr(), &guard.view, PyBUF_FULL_RO) != 0) {
    PyErr_Clear();
    refuse(name, "an array whose memory cannot be read", want);
  }
  const Py_buffer& view = guard.view;
  std::string_view format = view.format == nullptr ? "B" : view.format;
  const std::string shown_format(format);
  bool big_endian = false;
  if (!format.empty() && std::strchr("@=<>!", format[0]) != nullptr) {
    big_endian = format[0] == '>' || format[0] == '!';
    format.remove_prefix(1);
  }
  if (view.ndim != 1) refuse(name, std::to_string(view.ndim) + " dimensions", want);
  if (format.size() != 1 || std::strchr("bBhHiIlLqQnN", format[0]) == nullptr) {
    refuse(name, "elements of format " + quoted(shown_format), want);
  }
  const bool is_signed = std::strchr("bhilqn", format[0]) != nullptr;
  std::vector<std::int64_t> out(static_cast<std::size_t>(view.shape[0]));
  const auto* data = static_cast<const unsigned char*>(view.buf);
  const Py_ssize_t stride = view.strides == nullptr ? view.itemsize : view.strides[0];
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto position = static_cast<std::int64_t>(i);
    out[i] = read_element(data + position * stride, view.itemsize, big_endian, is_signed, name,
                          position);
  }
  return out;
}

}  // namespace

void refuse(const std::string& name, const std::string& got, const std::string& want) {
  throw ArgumentError(describe({.field = name, .got = got, .want = want}));
}

void refuse(const std::string& name, py::handle got, const std::string& want) {
  refuse(name, shown(got), want);
}

std::string shown(py::handle value) {
  const std::string type = Py_TYPE(value.ptr())->tp_name;
  PyObject* text = PyObject_Repr(value.ptr());
  if (text == nullptr) {
    PyErr_Clear();
    return type;
  }
  const auto repr = py::reinterpret_steal<py::object>(text);
  PyObject* encoded = PyUnicode_AsEncodedString(repr.ptr(), "ascii", "backslashreplace");
  if (encoded == nullptr) {
    PyErr_Clear();
    return type;
  }
  const auto bytes = py::reinterpret_steal<py::bytes>(encoded);
  std::string out(static_cast<std::string_view>(bytes));
  if (out.size() > 80) out = out.substr(0, 77) + "...";
  return out + " (" + type + ")";
}

std::string quoted(const std::string& text) {
  return py::cast<std::string>(py::repr(py::str(text)));
}

std::int64_t to_int(py::handle value, const std::string& name, std::int64_t min, std::int64_t max) {
  const py::object index = as_index(value, name);
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  const bool whole = min == std::numeric_limits<std::int64_t>::min() &&
                     max == std::numeric_limits<std::int64_t>::max();
  if (overflow != 0 || number < min || number > max) {
    refuse(name, py::cast<std::string>(py::str(index)).substr(0, 80),
           whole ? "an integer of 64 bits" : std::to_string(min) + ".." + std::to_string(max));
  }
  return number;
}

std::uint64_t to_uint64(py::handle value, const std::string& name) {
  const py::object index = as_index(value, name);
  const unsigned long long number = PyLong_AsUnsignedLongLong(index.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    refuse(name, py::cast<std::string>(py::str(index)).substr(0, 80), "0..2^64-1");
  }
  return number;
}

double to_double(py::handle value, const std::string& name) {
  const bool number = PyFloat_Check(value.ptr()) || PyIndex_Check(value.ptr()) ||
                      (!PyUnicode_Check(value.ptr()) && PyNumber_Check(value.ptr()));
  if (is_bool(value) || !number) refuse(name, value, "a number");
  const double out = PyFloat_AsDouble(value.ptr());
  if (out == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    refuse(name, value, "a number");
  }
  return out;
}

bool to_bool(py::handle value, const std::string& name) {
  if (!is_bool(value)) refuse(name, value, "True or False");
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth == 1;
}

std::string to_text(py::handle value, const std::string& name) {
  if (!PyUnicode_Check(value.ptr())) refuse(name, value, "a str");
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (data != nullptr) return std::string(data, static_cast<std::size_t>(size));
  PyErr_Clear();
  const Py_ssize_t length = PyUnicode_GetLength(value.ptr());
  for (Py_ssize_t i = 0; i < length; ++i) {
    const Py_UCS4 c = PyUnicode_ReadChar(value.ptr(), i);
    if (c >= 0xd800 && c <= 0xdfff) {
      refuse(name, "a lone surrogate at character " + std::to_string(i),
             "text that UTF-8 can hold");
    }
  }
  refuse(name, "text that cannot be encoded", "text that UTF-8 can hold");
}

std::string to_path(py::handle value, const std::string& name) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(value.ptr(), &bytes) == 0) {
    PyErr_Clear();
    refuse(name, value, "a path without NUL");
  }
  return std::string(static_cast<std::string_view>(py::reinterpret_steal<py::bytes>(bytes)));
}

std::vector<std::int64_t> to_int_list(py::handle value, const std::string& name) {
  if (PyObject_CheckBuffer(value.ptr()) && !PyBytes_Check(value.ptr()) &&
      !PyByteArray_Check(value.ptr())) {
    return from_buffer(value, name);
  }
  if (!PyList_Check(value.ptr()) && !PyTuple_Check(value.ptr()) && !PyRange_Check(value.ptr())) {
    refuse(name, value, "a list, a tuple or a one-dimensional integer array");
  }
  // A tuple of its own: an element's __index__ may run code that changes the caller's list (J4).
  const auto items = py::reinterpret_steal<py::tuple>(PySequence_Tuple(value.ptr()));
  if (!items) throw py::error_already_set();
  std::vector<std::int64_t> out;
  out.reserve(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const py::handle item = items[i];
    if (PyLong_CheckExact(item.ptr())) {
      int overflow = 0;
      const long long number = PyLong_AsLongLongAndOverflow(item.ptr(), &overflow);
      if (overflow == 0) {
        out.push_back(number);
        continue;
      }
    }
    out.push_back(to_int(item, name + "[" + std::to_string(i) + "]"));
  }
  return out;
}

std::vector<std::int32_t> to_token_ids(py::handle value, const std::string& name) {
  const std::vector<std::int64_t> wide = to_int_list(value, name);
  std::vector<std::int32_t> out;
  out.reserve(wide.size());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    if (wide[i] < 0 || wide[i] > std::numeric_limits<std::int32_t>::max()) {
      refuse(name + "[" + std::to_string(i) + "]", std::to_string(wide[i]), "a token id");
    }
    out.push_back(static_cast<std::int32_t>(wide[i]));
  }
  return out;
}

}  // namespace moa_rt::bindings
