#include "cuda/runtime/shared_library.h"

#include <dlfcn.h>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

std::string last_error() {
  const char* const text = dlerror();
  return text == nullptr ? "" : text;
}

}  // namespace

SharedLibrary::SharedLibrary(const char* item, const std::string& file, const char* missing,
                             const std::string& where)
    : item_(item), library_(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (library_ != nullptr) return;
  throw DeviceError(
      describe({.item = item, .got = missing, .want = file + where, .note = last_error()}));
}

void* SharedLibrary::address(const char* name) const {
  void* const found = dlsym(library_, name);
  if (found != nullptr) return found;
  throw DeviceError(
      describe({.item = item_, .field = name, .got = "not in the library", .note = last_error()}));
}

}  // namespace moa_rt::cuda
