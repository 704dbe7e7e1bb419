# Finds cuBLASLt's headers: in the CUDA toolkit, or on CMAKE_PREFIX_PATH (an unpacked Python package
# nvidia-cublas). The library itself is opened when a GPU is first asked for, so none is needed to
# build; CublasLt_LIBRARY_DIR is where it lies, where it was found. Defines CublasLt::CublasLt.
find_path(CublasLt_INCLUDE_DIR cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CublasLt_LIBRARY NAMES cublasLt libcublasLt.so.13 libcublasLt.so.12
             HINTS ${CUDAToolkit_LIBRARY_DIR})
if(CublasLt_LIBRARY)
  get_filename_component(CublasLt_LIBRARY_DIR "${CublasLt_LIBRARY}" DIRECTORY)
endif()
if(CublasLt_INCLUDE_DIR)
  file(STRINGS "${CublasLt_INCLUDE_DIR}/cublas_api.h" cublas_major REGEX "define CUBLAS_VER_MAJOR ")
  string(REGEX MATCH "[0-9]+" CublasLt_VERSION_MAJOR "${cublas_major}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CublasLt REQUIRED_VARS CublasLt_INCLUDE_DIR CublasLt_VERSION_MAJOR)
if(CublasLt_FOUND AND NOT TARGET CublasLt::CublasLt)
  add_library(CublasLt::CublasLt INTERFACE IMPORTED)
  target_include_directories(CublasLt::CublasLt INTERFACE "${CublasLt_INCLUDE_DIR}")
endif()
