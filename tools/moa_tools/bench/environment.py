"""What ran where: device, driver, versions, commit, date, load."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import moa_rt

_PACKAGES = ("torch", "transformers", "triton", "flashinfer-python", "llama-cpp-python", "numpy")


def _output(command: list[str], directory: Path | None = None) -> str:
    """First line of a command's output, empty if it cannot run."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True, cwd=directory
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().split("\n")[0]


def version_of(package: str) -> str | None:
    """Its installed version, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def now() -> str:
    """The date and time in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def commit() -> str:
    """The commit of the checkout that holds these tools, empty outside of one."""
    here = Path(__file__).resolve().parent
    name = _output(["git", "rev-parse", "--short=12", "HEAD"], here)
    if not name:
        return ""
    dirty = _output(["git", "status", "--porcelain", "--untracked-files=no"], here)
    return f"{name} with local changes" if dirty else name


def load_average() -> float:
    """Mean number of busy threads over the last minute."""
    return os.getloadavg()[0]


def processor() -> str:
    """The name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu() -> dict[str, str]:
    """Name, driver and memory of the first GPU; empty without one."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    parts = [part.strip() for part in _output(query).split(",")]
    if len(parts) != 3:
        return {}
    return {"device": parts[0], "driver": parts[1], "device_memory": parts[2]}


def _gpu_mebibytes(field: str) -> int:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "-i", "0"]
    text = _output(query)
    return int(text) << 20 if text.isdigit() else 0


def gpu_memory_used() -> int:
    """Bytes in use on the first GPU by whoever; 0 if nvidia-smi cannot tell."""
    return _gpu_mebibytes("memory.used")


def gpu_memory_free() -> int:
    """Bytes that nobody uses on the first GPU; 0 if nvidia-smi cannot tell."""
    return _gpu_mebibytes("memory.free")


def describe(kind: str, commit_name: str | None = None) -> dict[str, str]:
    """The environment of a run of `kind` ("cpu" or "gpu").

    `commit_name` is for an installed package, which has no checkout to ask.
    """
    out = {
        "moa_rt": moa_rt.__version__,
        "commit": commit_name or commit() or "unknown",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "load_average": f"{load_average():.2f}",
    }
    for package in _PACKAGES:
        version = version_of(package)
        if version is not None:
            out[package] = version
    if kind == "gpu":
        out |= gpu() or {"device": "none"}
    else:
        out["device"] = out["processor"]
    return out
