#include "cuda/runtime/cublas_lt.h"

#include <string>

#include "cuda/runtime/shared_library.h"

namespace moa_rt::cuda {
namespace {

CublasLt open() {
  const SharedLibrary library("cuBLASLt", "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR),
                              "no library",
                              ", as in the CUDA toolkit or the Python package nvidia-cublas");
  CublasLt lt = {};
  library.find("cublasLtCreate", lt.create);
  library.find("cublasLtDestroy", lt.destroy);
  library.find("cublasLtGetStatusName", lt.status_name);
  library.find("cublasLtMatmul", lt.matmul);
  library.find("cublasLtMatmulAlgoGetHeuristic", lt.heuristic);
  library.find("cublasLtMatmulDescCreate", lt.create_description);
  library.find("cublasLtMatmulDescDestroy", lt.destroy_description);
  library.find("cublasLtMatmulDescSetAttribute", lt.set_description);
  library.find("cublasLtMatmulPreferenceCreate", lt.create_preference);
  library.find("cublasLtMatmulPreferenceDestroy", lt.destroy_preference);
  library.find("cublasLtMatmulPreferenceSetAttribute", lt.set_preference);
  library.find("cublasLtMatrixLayoutCreate", lt.create_layout);
  library.find("cublasLtMatrixLayoutDestroy", lt.destroy_layout);
  return lt;
}

}  // namespace

const CublasLt& cublas_lt() {
  static const CublasLt lt = open();
  return lt;
}

}  // namespace moa_rt::cuda
