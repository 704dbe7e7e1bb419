// cuBLASLt, opened on first use: what never asks for a GPU runs without the library, and one build
// takes it from wherever it is, be it the toolkit, a Python package or a program that has it
// loaded.
#pragma once

#include <cublasLt.h>

namespace moa_rt::cuda {

// The functions that we call, each named as in cublasLt.h without its prefix.
struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusName) status_name;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulDescCreate) create_description;
  decltype(&cublasLtMatmulDescDestroy) destroy_description;
  decltype(&cublasLtMatmulDescSetAttribute) set_description;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference;
  decltype(&cublasLtMatrixLayoutCreate) create_layout;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout;
};

// Stays open until the process ends. Throws DeviceError if the library of the major version that we
// were built with is not found: on the linker's usual path or in the folders of the run path that
// third_party/cuda.cmake lists.
const CublasLt& cublas_lt();

}  // namespace moa_rt::cuda
