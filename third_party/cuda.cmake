# The CUDA backend. MOA_RT_CUDA=ON wants a toolkit and cuBLASLt; AUTO builds without them where they
# are missing. Sets MOA_RT_WITH_CUDA and says which it is in one line.
#
# sm_80 and sm_90a machine code, sm_89 for the desktop cards between them, and PTX for what comes.
set(MOA_RT_CUDA_ARCHITECTURES "80-real;89-real;90a-real;90-virtual" CACHE STRING
    "GPU architectures that the CUDA backend is compiled for")

include(CheckLanguage)
check_language(CUDA)
set(missing "")
if(NOT CMAKE_CUDA_COMPILER)
  set(missing "no nvcc")
else()
  find_package(CUDAToolkit 12.0 QUIET)
  find_package(CublasLt QUIET)
  if(NOT CUDAToolkit_FOUND)
    set(missing "no CUDA toolkit 12.0 or later")
  elseif(NOT CublasLt_FOUND)
    set(missing "no cublasLt.h")
  endif()
endif()

if(NOT missing)
  set(MOA_RT_WITH_CUDA ON)
  set(CMAKE_CUDA_ARCHITECTURES ${MOA_RT_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  # Where cuBLASLt is looked for when a GPU is first asked for, after the linker's usual path: beside
  # us in Python's packages (_core is in moa_rt/, the command in bin/), then where this build saw it.
  set(packages "nvidia/cu${CublasLt_VERSION_MAJOR}/lib" "nvidia/cublas/lib")
  set(MOA_RT_CUDA_RPATH "")
  foreach(package ${packages})
    list(APPEND MOA_RT_CUDA_RPATH "$ORIGIN/../${package}")
    if(MOA_RT_BUILD_PYTHON)
      set(site "lib/python${Python_VERSION_MAJOR}.${Python_VERSION_MINOR}/site-packages")
      list(APPEND MOA_RT_CUDA_RPATH "$ORIGIN/../${site}/${package}")
    endif()
  endforeach()
  list(APPEND MOA_RT_CUDA_RPATH ${CublasLt_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_DIR})
  list(REMOVE_DUPLICATES MOA_RT_CUDA_RPATH)
  list(APPEND CMAKE_BUILD_RPATH ${MOA_RT_CUDA_RPATH})
  list(APPEND CMAKE_INSTALL_RPATH ${MOA_RT_CUDA_RPATH})
  string(REPLACE ";" " " text "${CMAKE_CUDA_ARCHITECTURES}")
  message(STATUS "CUDA backend: yes, nvcc ${CMAKE_CUDA_COMPILER_VERSION}, "
                 "cuBLASLt ${CublasLt_VERSION_MAJOR}, architectures ${text}")
elseif(MOA_RT_CUDA STREQUAL "AUTO")
  set(MOA_RT_WITH_CUDA OFF)
  message(STATUS "CUDA backend: no, ${missing}; --device cuda will be refused")
else()
  message(FATAL_ERROR "MOA_RT_CUDA is ON: got ${missing}, want nvcc, a CUDA toolkit 12.0 or later "
                      "and cublasLt.h (-DCMAKE_PREFIX_PATH=... if it is elsewhere)")
endif()
