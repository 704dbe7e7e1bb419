"""Figures as PNG bytes. No date or host goes into a file: equal figures, equal bytes."""

from __future__ import annotations

import io
from typing import Any

from moa_rt import UnsupportedError

_DPI = 120


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure, inches, without a window system or state shared with other figures.

    Raises UnsupportedError if matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"{error.name} is not installed; plots come with: pip install 'moa_rt[tools]'"
        ) from error
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Any) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
