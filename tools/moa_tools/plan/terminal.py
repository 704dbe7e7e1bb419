"""A plan as a heat map of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moa_rt import AttentionPlan

if TYPE_CHECKING:
    from rich.text import Text

# From narrow to dense; dark to bright, as in the plots (viridis).
_COLOURS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30")
_DENSE = "#fde725"
_DARK_TEXT_FROM = 4


def shade(span: int, least: int, n: int) -> int:
    """Index of a span's colour on a log scale; the last index + 1 is a dense head."""
    if span >= n:
        return len(_COLOURS)
    top = math.log(max(n, least + 1) / least)
    place = math.log(max(span, least) / least) / top
    return min(int(place * len(_COLOURS)), len(_COLOURS) - 1)


def _cell(span: int, least: int, n: int) -> tuple[str, str]:
    index = shade(span, least, n)
    back = _DENSE if index == len(_COLOURS) else _COLOURS[index]
    front = "black" if index >= _DARK_TEXT_FROM else "white"
    return f"{span:>6} ", f"{front} on {back}"


def heat_map(plan: AttentionPlan, n: int) -> Text:
    """Spans at N = n: a row for each layer, a coloured cell for each KV head."""
    from rich.text import Text

    text = Text(no_wrap=True)
    text.append(f"spans at N = {n}, density {plan.density(n):.4f}\nlayer ")
    text.append("".join(f"{head:>6} " for head in range(plan.num_kv_heads)) + "\n")
    least = plan.sink_size + 64
    for layer, row in enumerate(plan.spans(n)):
        text.append(f"{layer:>5} ")
        for head in row:
            cell, style = _cell(head.span, least, n)
            text.append(cell, style=style)
        text.append("\n")
    return text


def render(plan: AttentionPlan, lengths: Sequence[int], *, colour: bool) -> str:
    """The heat maps of several lengths; with `colour`, with the terminal's escape codes."""
    import io

    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        force_terminal=colour,
        no_color=not colour,
        color_system="truecolor" if colour else None,
        width=max(80, 7 * plan.num_kv_heads + 8),
        legacy_windows=False,
    )
    with console.capture() as capture:
        for n in lengths:
            console.print(heat_map(plan, n))
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())
