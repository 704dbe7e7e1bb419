// Python values to C++ values, strictly: what does not fit is an ArgumentError that names the
// argument, never a silent conversion. All of these need the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moa_rt::bindings {

namespace py = pybind11;

// Integers of any kind with __index__ (numpy's included); bool and float are refused (J9).
std::int64_t to_int(py::handle value, const std::string& name,
                    std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                    std::int64_t max = std::numeric_limits<std::int64_t>::max());
std::uint64_t to_uint64(py::handle value, const std::string& name);
// Integers and floating numbers; bool and str are refused. NaN passes: bounds are the callee's.
double to_double(py::handle value, const std::string& name);
bool to_bool(py::handle value, const std::string& name);
// UTF-8 of a str. Lone surrogates are refused (D7).
std::string to_text(py::handle value, const std::string& name);
// str, bytes or os.PathLike, as the file system spells it.
std::string to_path(py::handle value, const std::string& name);

// Token ids from a list, a tuple, a range or a one-dimensional integer array of any width, byte
// order and stride (J3), copied. `name` leads messages: "prompts[3]".
std::vector<std::int32_t> to_token_ids(py::handle value, const std::string& name);
// The same for int64 lists that are no tokens yet (stop ids).
std::vector<std::int64_t> to_int_list(py::handle value, const std::string& name);

// Python's repr, escaped and cut for a message.
std::string shown(py::handle value);
// repr() of a str, for __repr__ methods.
std::string quoted(const std::string& text);

[[noreturn]] void refuse(const std::string& name, const std::string& got, const std::string& want);
[[noreturn]] void refuse(const std::string& name, py::handle got, const std::string& want);

}  // namespace moa_rt::bindings
