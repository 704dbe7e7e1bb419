"""The spans at which a curve is measured."""

from __future__ import annotations

from moa_rt import ArgumentError

from moa_tools.profile.cost_curves import LEAST_WINDOW

# Steps double where the span does, so every span up to 32k is within 1/8 of a knot.
_PER_OCTAVE = 8


def profile_spans(length: int, sink: int) -> tuple[int, ...]:
    """Spans from sink + 64 up to `length`, all but the last multiples of 64.

    Steps are 64 tokens at the narrow end and an eighth of the octave beyond 512. Raises
    ArgumentError if `length` leaves no room for two spans.
    """
    spans = [sink + LEAST_WINDOW]
    while spans[-1] < length:
        octave = 1 << (spans[-1].bit_length() - 1)
        step = max(LEAST_WINDOW, octave // _PER_OCTAVE)
        spans.append(min(spans[-1] + step, length))
    if len(spans) < 2 or spans[-1] != length:
        raise ArgumentError(
            f"length: got {length}, want more than sink + {LEAST_WINDOW} = {sink + LEAST_WINDOW}"
        )
    return tuple(spans)
