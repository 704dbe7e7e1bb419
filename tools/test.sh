#!/usr/bin/env bash
# Every check of the project: lint, types, C++ tests, Python tests. The same that CI runs.
#   bash tools/test.sh              everything
#   bash tools/test.sh --sanitize   the C++ tests under ASan, UBSan and TSan instead
#   bash tools/test.sh --cuda       the C++ and Python tests of the CUDA backend; needs a GPU
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly QWEN=models/qwen2.5-coder-0.5b-instruct  # tested on the GPU too, if it has been converted
readonly KIND=${1:---all}
case "$KIND" in
  --all) readonly STEPS=13 ;;
  --sanitize) readonly STEPS=5 ;;
  --cuda) readonly STEPS=7 ;;
  *) echo "usage: bash tools/test.sh [--sanitize | --cuda]" >&2 && exit 2 ;;
esac
source tools/setup.sh
trap 'printf "error: step %d failed (line %d)\n" "$step_number" "$LINENO" >&2' ERR

# Runs one check and remembers how it went; the others still run.
passed=()
failed=()
check() {
  local name=$1 start=$SECONDS
  shift
  step "$name"
  if "$@"; then passed+=("$name"); else failed+=("$name"); fi
  printf -- '- %s: %d s\n' "$name" "$((SECONDS - start))"
}

workflow() {
  cmake --workflow --preset "$1"
}

cpp_sources() {
  find cpp tests cuda -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh'
}

check_cpp_format() {
  cpp_sources | xargs "$VENV/bin/clang-format" --dry-run -Werror
}

check_stubs() {
  "$PYTHON" -m mypy.stubtest moa_rt._core
}

# Everything of cuda/ for one architecture, the one with the most code, and what needs no GPU to run.
check_cuda_build() {
  local nvcc
  nvcc=$(find_nvcc)
  if [[ -z $nvcc ]] || ! cuda_defines "$nvcc" 90a-real; then
    printf '\n*** NO COMPLETE CUDA TOOLKIT HERE: cuda/ IS NOT COMPILED AND NOT CHECKED ***\n\n' >&2
    return 0
  fi
  cmake --preset cuda "${CUDA_DEFINES[@]}" &&
    cmake --build --preset cuda --target moa_rt cuda_build_tests &&
    ctest --preset cuda -L cuda_no_gpu --no-tests=error
}

# The same for this machine's GPU, and the tests that need it.
check_cuda_cpp() {
  cmake --preset cuda "${CUDA_DEFINES[@]}" && cmake --build --preset cuda &&
    ctest --preset cuda -L cuda --no-tests=error -j 4
}

summary() {
  printf '\nChecks that passed: %s\n' "$(IFS=,; echo "${passed[*]}" | sed 's/,/, /g')"
  [[ ${#failed[@]} -eq 0 ]] || printf 'Checks that FAILED: %s\n' "$(IFS=,; echo "${failed[*]}")"
  printf 'Time: %d s\n' "$SECONDS"
  [[ ${#failed[@]} -eq 0 ]]
}

if [[ $KIND == --cuda ]]; then
  has_gpu || fail "--cuda: THIS MACHINE SHOWS NO GPU; nothing was tested"
  [[ -n $(find_nvcc) ]] || fail "--cuda: no nvcc found; nothing was tested"
fi

step "System packages"
# shellcheck disable=SC2086
need_packages $BUILD_PACKAGES libgtest-dev libgmock-dev ccache

step "Python environment"
make_venv
need_cmake
use_ccache

if [[ $KIND == --sanitize ]]; then
  for preset in cpu-asan cpu-ubsan cpu-tsan; do check "C++ tests, $preset" workflow "$preset"; done
  summary || exit 1
  exit
fi

step "Python packages (the first time: some minutes)"
choose_cuda auto
need_torch
install_package convert,tools,dev
step "Model"
get_model

if [[ $KIND == --cuda ]]; then
  check "C++ tests on the GPU" check_cuda_cpp
  qwen=()
  if [[ -d $QWEN ]]; then qwen=("--qwen-dir=$QWEN"); fi
  check "Python tests on the GPU" "$PYTHON" -m pytest tests/python --device=cuda "${qwen[@]}"
  step "Summary"
  summary || exit 1
  exit
fi

check "ruff check" "$VENV/bin/ruff" check .
check "ruff format" "$VENV/bin/ruff" format --check .
check "clang-format" check_cpp_format
check "mypy" "$VENV/bin/mypy"
check "stubtest" check_stubs
check "C++ tests" workflow cpu
check "CUDA compiles" check_cuda_build
check "Python tests" "$PYTHON" -m pytest
step "Summary"
summary || exit 1
