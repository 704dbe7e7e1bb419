# Finds cuBLASLt: in the CUDA toolkit, or on CMAKE_PREFIX_PATH (the wheel nvidia-cublas has include/
# and lib/ of its own, without the unversioned name). Defines CublasLt::CublasLt.
find_path(CublasLt_INCLUDE_DIR cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CublasLt_LIBRARY NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12
             HINTS ${CUDAToolkit_LIBRARY_DIR})
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CublasLt REQUIRED_VARS CublasLt_LIBRARY CublasLt_INCLUDE_DIR)
if(CublasLt_FOUND AND NOT TARGET CublasLt::CublasLt)
  add_library(CublasLt::CublasLt UNKNOWN IMPORTED)
  set_target_properties(CublasLt::CublasLt PROPERTIES
    IMPORTED_LOCATION "${CublasLt_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${CublasLt_INCLUDE_DIR}")
endif()
