#!/usr/bin/env bash
# Every check of the project: lint, types, C++ tests, Python tests. The same that CI runs.
#   bash tools/test.sh              everything
#   bash tools/test.sh --sanitize   the C++ tests under ASan, UBSan and TSan instead
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sanitize=false
case "${1:-}" in
  "") ;;
  --sanitize) sanitize=true ;;
  *) echo "usage: bash tools/test.sh [--sanitize]" >&2 && exit 2 ;;
esac

if $sanitize; then STEPS=5; else STEPS=12; fi
readonly STEPS
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

summary() {
  printf '\nChecks that passed: %s\n' "$(IFS=,; echo "${passed[*]}" | sed 's/,/, /g')"
  [[ ${#failed[@]} -eq 0 ]] || printf 'Checks that FAILED: %s\n' "$(IFS=,; echo "${failed[*]}")"
  printf 'Time: %d s\n' "$SECONDS"
  [[ ${#failed[@]} -eq 0 ]]
}

step "System packages"
# shellcheck disable=SC2086
need_packages $BUILD_PACKAGES libgtest-dev libgmock-dev ccache

step "Python environment"
make_venv
need_cmake
use_ccache

if $sanitize; then
  for preset in cpu-asan cpu-ubsan cpu-tsan; do check "C++ tests, $preset" workflow "$preset"; done
  summary || exit 1
  exit
fi

step "Python packages (the first time: some minutes)"
pip_install -q torch==2.13.0
install_package convert,tools,dev
step "Model"
get_model
check "ruff check" "$VENV/bin/ruff" check .
check "ruff format" "$VENV/bin/ruff" format --check .
check "clang-format" check_cpp_format
check "mypy" "$VENV/bin/mypy"
check "stubtest" check_stubs
check "C++ tests" workflow cpu
check "Python tests" "$PYTHON" -m pytest
step "Summary"
summary || exit 1
