# The CUDA backend. MOA_RT_CUDA=ON wants a toolkit and cuBLASLt; AUTO builds without them where they
# are missing. Sets MOA_RT_WITH_CUDA.
#
# sm_80 and sm_90a machine code, sm_89 for the desktop cards between them, and PTX for what comes.
set(MOA_RT_CUDA_ARCHITECTURES "80-real;89-real;90a-real;90-virtual" CACHE STRING
    "GPU architectures that the CUDA backend is compiled for")

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  find_package(CUDAToolkit 12.0 QUIET)
  find_package(CublasLt QUIET)
endif()
if(CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND AND CublasLt_FOUND)
  set(MOA_RT_WITH_CUDA ON)
elseif(MOA_RT_CUDA STREQUAL "AUTO")
  set(MOA_RT_WITH_CUDA OFF)
else()
  message(FATAL_ERROR "MOA_RT_CUDA is ON: nvcc: got ${CMAKE_CUDA_COMPILER}, CUDA toolkit: got "
                      "${CUDAToolkit_FOUND}, cuBLASLt: got ${CublasLt_FOUND}, want all three")
endif()
if(MOA_RT_WITH_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES ${MOA_RT_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
endif()
