# Libraries we build on. Each is taken from the system where it is installed (Debian package named
# beside it) and fetched at a pinned release otherwise.
include(FetchContent)

find_package(Threads REQUIRED)

# JSON, in SAX mode, so that duplicate keys are seen (nlohmann-json3-dev).
find_package(nlohmann_json 3.10 QUIET)
if(NOT nlohmann_json_FOUND)
  FetchContent_Declare(nlohmann_json GIT_REPOSITORY https://github.com/nlohmann/json.git
                       GIT_TAG v3.11.3 GIT_SHALLOW TRUE)
  FetchContent_MakeAvailable(nlohmann_json)
endif()

# Unicode classes and normalisation for tokenizers (libutf8proc-dev).
find_package(Utf8proc QUIET)
if(NOT Utf8proc_FOUND)
  FetchContent_Declare(utf8proc GIT_REPOSITORY https://github.com/JuliaStrings/utf8proc.git
                       GIT_TAG v2.9.0 GIT_SHALLOW TRUE)
  FetchContent_MakeAvailable(utf8proc)
  add_library(utf8proc::utf8proc ALIAS utf8proc)
endif()

# Command line parsing of moa-rt (libcli11-dev).
if(MOA_RT_BUILD_CLI)
  find_package(CLI11 2.1 QUIET)
  if(NOT CLI11_FOUND)
    FetchContent_Declare(CLI11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11.git
                         GIT_TAG v2.4.2 GIT_SHALLOW TRUE)
    FetchContent_MakeAvailable(CLI11)
  endif()
endif()

# The C++ tests (libgtest-dev and libgmock-dev).
if(MOA_RT_BUILD_TESTS)
  find_package(GTest 1.11 QUIET)
  if(NOT GTest_FOUND)
    FetchContent_Declare(googletest GIT_REPOSITORY https://github.com/google/googletest.git
                         GIT_TAG v1.15.2 GIT_SHALLOW TRUE)
    FetchContent_MakeAvailable(googletest)
  endif()
endif()

# The Python extension (from the build environment of the wheel).
if(MOA_RT_BUILD_PYTHON)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
  find_package(pybind11 2.12 CONFIG REQUIRED)
endif()
