"""Seconds and memory of each sample, by length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Collects what samples took. On a CPU the allocator keeps no account: no peak there."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._seconds: dict[int, list[float]] = {}
        self.peak_bytes: dict[int, int] = {}

    @property
    def count(self) -> int:
        """Samples measured."""
        return sum(map(len, self._seconds.values()))

    def mean_seconds(self) -> dict[int, float]:
        """Of a sample, by length."""
        return {n: sum(times) / len(times) for n, times in sorted(self._seconds.items())}

    @contextmanager
    def measure(self, length: int) -> Iterator[None]:
        """Around one sample."""
        if self._device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
        start = time.perf_counter()
        yield
        self._seconds.setdefault(length, []).append(time.perf_counter() - start)
        if self._device != "cpu":
            peak = int(torch.cuda.max_memory_allocated(self._device))
            self.peak_bytes[length] = max(peak, self.peak_bytes.get(length, 0))
