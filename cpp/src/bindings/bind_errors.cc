// C++ errors to the exception classes of moa_rt/errors.py.

#include <exception>
#include <new>

#include "bindings/bindings.h"
#include "bindings/errors.h"

namespace moa_rt::bindings {
namespace {

namespace py = pybind11;

const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kArgument:
      return "ArgumentError";
    case ErrorCode::kFormat:
      return "FormatError";
    case ErrorCode::kUnsupported:
      return "UnsupportedError";
    case ErrorCode::kMismatch:
      return "MismatchError";
    case ErrorCode::kResource:
      return "ResourceError";
    case ErrorCode::kIo:
      return "IoError";
    case ErrorCode::kState:
      return "StateError";
    case ErrorCode::kNumeric:
      return "NumericError";
    case ErrorCode::kDevice:
      return "DeviceError";
    case ErrorCode::kBusy:
      return "BusyError";
    case ErrorCode::kInternal:
      return "InternalError";
  }
  return "InternalError";
}

// Messages may quote bytes of a broken file, which need not be UTF-8.
py::object message_text(const char* text) {
  return py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
      text, static_cast<Py_ssize_t>(std::char_traits<char>::length(text)), "backslashreplace"));
}

py::object make(ErrorCode code, const py::tuple& arguments) {
  return py::module_::import("moa_rt.errors").attr(class_name(code))(*arguments);
}

void set_error(ErrorCode code, const py::tuple& arguments) {
  const py::object error = make(code, arguments);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const IoError& error) {
    const auto path =
        py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(error.path().c_str()));
    set_error(ErrorCode::kIo,
              py::make_tuple(error.error_number(), message_text(error.what()), path));
  } catch (const Error& error) {
    set_error(error.code(), py::make_tuple(message_text(error.what())));
  } catch (const std::bad_alloc&) {
    set_error(ErrorCode::kResource, py::make_tuple("out of memory"));
  }
}

}  // namespace

py::object make_exception(std::optional<ErrorCode> code, const std::string& message) {
  if (!code) return py::none();
  if (*code == ErrorCode::kIo) return make(*code, py::make_tuple(0, message_text(message.c_str())));
  return make(*code, py::make_tuple(message_text(message.c_str())));
}

void bind_errors(py::module_& /*module*/) { py::register_local_exception_translator(&translate); }

}  // namespace moa_rt::bindings
