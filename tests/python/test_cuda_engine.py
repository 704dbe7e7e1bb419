"""Memory and faults of the GPU; run with --device=cuda."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from moa_rt import DeviceError, Engine, ResourceError, predict_memory
from support_cli import MODEL, fails, json_of, moa_rt
from support_engine import greedy
from support_target import Target

MIB = 1 << 20


def test_inspect_counts_the_memory_of_the_device(target: Target) -> None:
    flags = ("--model", MODEL, "--device", target.device, "--max-seq-len", "4096")
    sizes = json_of(moa_rt("inspect", *flags, "--json"))["bytes"]
    assert sizes["runtime"] > 100 * MIB, "the context of the device"
    config = json.loads((MODEL / "config.json").read_text())
    table = config["vocab_size"] * config["hidden_size"] * 2
    assert table < sizes["weights"] < 2 * (MODEL / "model.safetensors").stat().st_size


TAKEN = """
import subprocess, sys, moa_rt
def used():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout) << 20
before = used()
engine = moa_rt.Engine(sys.argv[1], device="cuda", max_seq_len=4096, max_batch=16)
engine.generate([list(range(5, 2000))] * 16, max_new_tokens=100, ignore_eos=True)
need = moa_rt.predict_memory(sys.argv[1], device="cuda", max_seq_len=4096, max_batch=16)
print(used() - before, need.weights + need.scratch + need.runtime + 16 * need.kv_per_sequence)
"""


def test_I2_prediction_is_what_nvidia_smi_sees(smollm2_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN, str(smollm2_dir)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    taken, predicted = (int(word) for word in done.stdout.split())
    print(f"predicted {predicted / MIB:.0f} MiB, taken {taken / MIB:.0f} MiB")
    assert taken <= predicted + 16 * MIB
    assert taken >= 0.85 * predicted


def test_I2_too_little_memory_names_the_missing_bytes(tiny_dir: Path, target: Target) -> None:
    with pytest.raises(ResourceError, match=r"memory of cuda:0 .*missing \d+"):
        Engine(tiny_dir, kv_cache_bytes=1 << 42, **target.options)
    with Engine(tiny_dir, max_seq_len=256, **target.options) as engine:
        assert len(greedy(engine, count=4)) == 4


def test_G14_index_of_no_device(tiny_dir: Path) -> None:
    with pytest.raises(DeviceError, match=r"got cuda:1000, want cuda:0"):
        Engine(tiny_dir, device="cuda:1000")


def test_G14_no_device_visible() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import moa_rt, sys; moa_rt.Engine(sys.argv[1], device='cuda')",
            MODEL,
        ],
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"DeviceError: device: got cuda:0, want a GPU", done.stderr), done.stderr


PEAK = """
import resource, sys, moa_rt
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
options = {"device": "cuda", "dtype": "bfloat16", "max_seq_len": 256, "max_batch": 1}
moa_rt.Engine(sys.argv[1], **options).close()
small = peak()
moa_rt.Engine(sys.argv[2], **options).close()
print(peak() - small)
"""


def test_weights_stream_to_the_device(tiny_dir: Path, smollm2_dir: Path) -> None:
    """Opening a model needs no second copy of it: far less host memory than its 269 MB.

    The small model before it pays for context, libraries and page-locked blocks.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tiny_dir), str(smollm2_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    print(f"host memory grew by {grown / MIB:.0f} MiB")
    assert grown < (smollm2_dir / "model.safetensors").stat().st_size / 3


def test_generate_on_the_device(target: Target) -> None:
    common = ("--model", MODEL, "--prompt", "What is the capital of France?")
    done = moa_rt("generate", *common, "--device", target.device, "--max-new-tokens", "16")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_predictions_grow_with_what_is_asked_for(tiny_dir: Path, target: Target) -> None:
    small = predict_memory(tiny_dir, max_seq_len=1024, max_batch=1, **target.options)
    large = predict_memory(tiny_dir, max_seq_len=4096, max_batch=64, **target.options)
    assert large.kv_per_sequence == 4 * small.kv_per_sequence
    assert large.scratch > small.scratch
    assert large.weights == small.weights
    assert fails(
        moa_rt("inspect", "--model", MODEL, "--device", "cuda", "--dtype", "float32"),
        4,
        "E_UNSUPPORTED",
        "float32",
    )
