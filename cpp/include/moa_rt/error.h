// The error classes of moa_rt: one class per cause, so that a caller can tell a bad argument from a
// bad file from a full memory without reading the text.
#pragma once

#include <stdexcept>
#include <string>

namespace moa_rt {

// Order and values are stable; `error_name` and `exit_code` follow them.
enum class ErrorCode {
  kArgument,     // the caller passed a bad value
  kFormat,       // a file breaks its own format
  kUnsupported,  // legal, but not implemented here
  kMismatch,     // two good inputs disagree
  kResource,     // memory, disk or descriptors are short
  kIo,           // a read or write failed; carries errno
  kState,        // closed, busy, forked or cancelled
  kNumeric,      // NaN or Inf where a number is needed
  kDevice,       // the accelerator is missing or lost
  kBusy,         // capacity or queue is full
  kInternal,     // a broken invariant: our bug
};

// "E_FORMAT" and so on, as printed by the command line.
const char* error_name(ErrorCode code) noexcept;

// Exit status of the command line for an error of this class (2..11, 70 for kInternal).
int exit_code(ErrorCode code) noexcept;

// Base of everything moa_rt throws. `what()` says file, item, field, got and want where they apply.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// One type per code, so that `catch` and the Python exception map can name it.
template <ErrorCode Code>
class CodedError : public Error {
 public:
  explicit CodedError(const std::string& message) : Error(Code, message) {}
};

using ArgumentError = CodedError<ErrorCode::kArgument>;
using FormatError = CodedError<ErrorCode::kFormat>;
using UnsupportedError = CodedError<ErrorCode::kUnsupported>;
using MismatchError = CodedError<ErrorCode::kMismatch>;
using ResourceError = CodedError<ErrorCode::kResource>;
using StateError = CodedError<ErrorCode::kState>;
using NumericError = CodedError<ErrorCode::kNumeric>;
using DeviceError = CodedError<ErrorCode::kDevice>;
using BusyError = CodedError<ErrorCode::kBusy>;
using InternalError = CodedError<ErrorCode::kInternal>;

// A failed read or write. `error_number()` is the errno of the call that failed, 0 if none was set;
// `path()` names the file, empty where there is none.
class IoError : public Error {
 public:
  IoError(const std::string& message, int error_number, std::string path)
      : Error(ErrorCode::kIo, message), error_number_(error_number), path_(std::move(path)) {}
  int error_number() const noexcept { return error_number_; }
  const std::string& path() const noexcept { return path_; }

 private:
  int error_number_;
  std::string path_;
};

}  // namespace moa_rt
