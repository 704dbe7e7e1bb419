#!/usr/bin/env bash
# From a fresh checkout on Debian or Ubuntu to an answer about a long document. May be run again.
#   bash tools/quickstart.sh          with CUDA for this machine's GPU, if it has one and nvcc
#   bash tools/quickstart.sh --cpu    without CUDA in any case
#   bash tools/quickstart.sh --cuda   with CUDA for every GPU since compute capability 8.0
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  "") readonly CUDA=auto ;;
  --cpu | --cuda) readonly CUDA=${1#--} ;;
  *) echo "usage: bash tools/quickstart.sh [--cpu | --cuda]" >&2 && exit 2 ;;
esac

readonly STEPS=7
source tools/setup.sh
trap 'printf "error: step %d failed (line %d)\n" "$step_number" "$LINENO" >&2' ERR

readonly DOCUMENT=build/quickstart/document.txt
readonly QUESTION="What is the secret number in the text above?"
readonly LENGTH=2048  # tokens: document, question and answer

# Text that every Python has with it, and one note that is in no book. The note stands in the first
# half, which a plan that cuts all heads alike would have forgotten.
write_document() {
  mkdir -p "$(dirname "$DOCUMENT")"
  "$PYTHON" - "$DOCUMENT" "$QUESTION" <<'WRITE'
import sys
from pathlib import Path
from pydoc_data.topics import topics

names = ("for", "while", "try", "with", "function", "class", "import")
words = " ".join(topics[name] for name in names).split()
note = "Note: the secret number is 4821. Remember: the secret number is 4821."
text = f"{' '.join(words[:400])}\n\n{note}\n\n{' '.join(words[400:1100])}"
Path(sys.argv[1]).write_text(f"{text}\n\n{sys.argv[2]}\n")
print(f"{sys.argv[1]}: {len(text)} bytes of Python's manual, and in it: {note}")
WRITE
}

# Rows: what the engine needs; columns: every head keeps everything, every head keeps half.
print_memory() {
  local dense half
  dense=$("$VENV/bin/moa-rt" inspect --model "$MODEL" --length "$LENGTH" --json)
  half=$("$VENV/bin/moa-rt" inspect --model "$MODEL" --length "$LENGTH" --plan auto --density 0.5 --json)
  "$PYTHON" - "$dense" "$half" <<'PRINT'
import json
import sys

dense, half = (json.loads(text) for text in sys.argv[1:])
print(f"bytes for one sequence of {dense['length']} tokens")
print(f"{'':24}{'dense':>14}{'50 % plan':>14}")
rows = [("weights", "weights"), ("KV cache", "kv_cache_per_sequence"), ("scratch", "scratch"),
        ("runtime", "runtime"), ("total", "total")]
for label, key in rows:
    print(f"{label:24}{dense['bytes'][key]:>14,}{half['bytes'][key]:>14,}")
print(f"{'KV cache of the dense':24}{'100 %':>14}{half['plan']['density']:>14.1%}")
PRINT
}

ask() {
  printf '%s: ' "$1"
  shift
  "$VENV/bin/moa-rt" generate --model "$MODEL" --prompt-file "$DOCUMENT" --max-new-tokens 32 \
    --max-seq-len "$LENGTH" "$@" 2>build/quickstart/summary.txt
  printf '\n    %s\n' "$(<build/quickstart/summary.txt)"
}

step "System packages"
# shellcheck disable=SC2086
need_packages $BUILD_PACKAGES
step "Python environment"
make_venv
need_cmake
use_ccache
step "Build and install moa_rt (the first time: two to six minutes)"
choose_cuda "$CUDA"
install_package convert
step "Model"
get_model
step "Memory"
print_memory
step "A question about a long document"
write_document
echo "Question: $QUESTION"
ask "dense    "
ask "50 % plan" --plan auto --density 0.5
if [[ ${CUDA_DEFINES[0]} == *=ON ]] && has_gpu; then ask "dense, GPU" --device cuda; fi
step "Done"
echo "Try: $VENV/bin/moa-rt chat --model $MODEL"
