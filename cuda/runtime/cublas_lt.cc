#include "cuda/runtime/cublas_lt.h"

#include <dlfcn.h>

#include <string>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt::cuda {
namespace {

std::string last_error() {
  const char* const text = dlerror();
  return text == nullptr ? "" : text;
}

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return;
  throw DeviceError(describe(
      {.item = "cuBLASLt", .field = name, .got = "not in the library", .note = last_error()}));
}

CublasLt open() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw DeviceError(describe({.item = "cuBLASLt",
                                .got = "no library",
                                .want = name + ", as in the CUDA toolkit or the Python package "
                                               "nvidia-cublas",
                                .note = last_error()}));
  }
  CublasLt lt = {};
  find(library, "cublasLtCreate", lt.create);
  find(library, "cublasLtDestroy", lt.destroy);
  find(library, "cublasLtGetStatusName", lt.status_name);
  find(library, "cublasLtMatmul", lt.matmul);
  find(library, "cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  find(library, "cublasLtMatmulDescCreate", lt.create_description);
  find(library, "cublasLtMatmulDescDestroy", lt.destroy_description);
  find(library, "cublasLtMatmulDescSetAttribute", lt.set_description);
  find(library, "cublasLtMatmulPreferenceCreate", lt.create_preference);
  find(library, "cublasLtMatmulPreferenceDestroy", lt.destroy_preference);
  find(library, "cublasLtMatmulPreferenceSetAttribute", lt.set_preference);
  find(library, "cublasLtMatrixLayoutCreate", lt.create_layout);
  find(library, "cublasLtMatrixLayoutDestroy", lt.destroy_layout);
  return lt;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt lt = open();
  return lt;
}

}  // namespace moa_rt::cuda
