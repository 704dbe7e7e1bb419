"""Lists of spans, as profile and gates measure them.

A query q sees a key k under span s iff k <= q and (k < sink or q - k < s - sink): the runtime's
mask (`moa_rt.visible`). Widening the span only adds keys, so the keys of a row fall into bands:
what the first span shows, what the second adds, and so on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from moa_rt import ArgumentError


def check_spans(spans: Sequence[int], sink: int) -> None:
    """Raises ArgumentError unless `spans` ascend strictly and the first is wider than the sink."""
    if sink < 0 or not spans or spans[0] <= sink:
        raise ArgumentError(
            f"spans: got {list(spans)} with sink {sink}, want spans beyond the sink"
        )
    if any(a >= b for a, b in itertools.pairwise(spans)):
        raise ArgumentError(f"spans: got {list(spans)}, want them strictly ascending")
