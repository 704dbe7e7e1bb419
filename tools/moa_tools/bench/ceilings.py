"""What the device can do at most, measured in the same run as everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from moa_tools.bench.record import Row
from moa_tools.bench.statistics import Rounds, interleave
from moa_tools.bench.timing import timer

SECTION = "ceilings"


def _row(what: str, times: Rounds, amount: float, unit: str, scale: float) -> Row:
    # A ceiling is what the device can do: the best of the rounds' medians.
    rate = amount / min(times.of_rounds)
    figures = {unit: rate * scale, "spread": times.spread}
    return Row(SECTION, "torch", {"what": what}, figures, times.seconds)


def _buffers(torch: Any, device: str, size: int) -> tuple[Any, Any]:
    """Two buffers of `size` bytes of random bfloat16 numbers."""
    source = torch.empty(size // 2, dtype=torch.bfloat16, device=device).normal_()
    return source, torch.empty_like(source)


def measure(device: str, quick: bool) -> Iterator[Row]:
    """Read bandwidth, copy bandwidth (bytes read plus written) and matmul rate in bfloat16."""
    import torch

    cuda = device.startswith("cuda")
    size = (4 << 30) if cuda and not quick else (1 << 30) if cuda else (32 << 20)
    source, target = _buffers(torch, device, size)
    words = source.view(torch.int32)
    work: dict[str, Callable[[], object]] = {
        "read (sum)": lambda: words.view(torch.float32).sum(),
        "read (maximum)": lambda: words.amax(),
        "copy": lambda: target.copy_(source),
        "copy (negated)": lambda: torch.neg(source, out=target),
    }
    rounds = interleave(
        {name: timer(device, run) for name, run in work.items()}, repeats=3 if quick else 7
    )
    for name, times in rounds.items():
        amount = 2.0 * size if name.startswith("copy") else float(size)
        yield _row(name, times, amount, "TB_s", 1e-12)
    yield _matmul(torch, device, 8192 if cuda else 256, quick)


def _matmul(torch: Any, device: str, n: int, quick: bool) -> Row:
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    timed = timer(device, lambda: torch.matmul(left, right, out=out))
    times = interleave({"matmul": timed}, repeats=3 if quick else 7)["matmul"]
    return _row(f"matmul {n}", times, 2.0 * n**3, "TFLOP_s", 1e-12)


def best(rows: list[Row]) -> dict[str, float]:
    """The ceilings of a run from its rows: read and copy in TB/s, matmul in TFLOP/s.

    Every read kernel of the run counts, that of the C++ benchmarks as well; the best is the limit.
    """
    out: dict[str, float] = {}

    def keep(name: str, value: float) -> None:
        out[name] = max(out.get(name, 0.0), value)

    for row in rows:
        if row.section == SECTION:
            what = str(row.case["what"]).split()[0]
            if "TB_s" in row.figures:
                keep(f"{what}_TB_s", row.figures["TB_s"])
            if "TFLOP_s" in row.figures:
                keep("matmul_TFLOP_s", row.figures["TFLOP_s"])
        elif "read_TB_s" in row.figures:
            keep("read_TB_s", row.figures["read_TB_s"])
    return out
