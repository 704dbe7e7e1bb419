"""Times of device work: graph replays between events on a GPU, a clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], object]
Timed = Callable[[], float]

# Buffers are rotated through this many times the L2, so that no replay finds them there.
L2_FACTOR = 5


def l2_bytes(device: str) -> int:
    """Size of the last cache level before memory that a device's kernels share."""
    if not device.startswith("cuda"):
        return 1 << 20
    import torch

    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def copies_for(size: int, cache: int) -> int:
    """How many buffers of `size` bytes to rotate through, at least 2."""
    return max(2, -(-L2_FACTOR * cache // max(size, 1)))


def _events(torch: Any, run: Work) -> Timed:
    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)

    def timed() -> float:
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    return timed


def timer(device: str, work: Work) -> Timed:
    """A function that does `work` once and returns its seconds.

    On a GPU the work is captured into a graph and the graph is replayed; work that cannot be
    captured raises, and `launch_timer` is left.
    """
    if not device.startswith("cuda"):
        return wall_timer(work)
    import torch

    make_stream: Any = torch.cuda.Stream
    stream = make_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # builds what is built at the first call
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return _events(torch, graph.replay)


def launch_timer(device: str, work: Work) -> Timed:
    """As `timer`, but every kernel is launched anew."""
    if not device.startswith("cuda"):
        return wall_timer(work)
    import torch

    return _events(torch, work)


def wall_timer(work: Work) -> Timed:
    """A function that does `work` once and returns its seconds by the clock."""

    def timed() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return timed


def per_item(timed: Timed, count: int) -> Timed:
    """The seconds of one of `count` equal parts."""
    return lambda: timed() / count
