#include "moa_rt/error.h"

namespace moa_rt {

const char* error_name(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kArgument:
      return "E_ARG";
    case ErrorCode::kFormat:
      return "E_FORMAT";
    case ErrorCode::kUnsupported:
      return "E_UNSUPPORTED";
    case ErrorCode::kMismatch:
      return "E_MISMATCH";
    case ErrorCode::kResource:
      return "E_RESOURCE";
    case ErrorCode::kIo:
      return "E_IO";
    case ErrorCode::kState:
      return "E_STATE";
    case ErrorCode::kNumeric:
      return "E_NUMERIC";
    case ErrorCode::kDevice:
      return "E_DEVICE";
    case ErrorCode::kBusy:
      return "E_BUSY";
    case ErrorCode::kInternal:
      break;
  }
  return "E_INTERNAL";
}

int exit_code(ErrorCode code) noexcept {
  constexpr int kFirst = 2;
  constexpr int kInternalExit = 70;
  return code == ErrorCode::kInternal ? kInternalExit : kFirst + static_cast<int>(code);
}

}  // namespace moa_rt
