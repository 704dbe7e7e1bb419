"""Lists of spans."""

from __future__ import annotations

import pytest
from moa_rt import ArgumentError
from moa_tools.hf.spans import check_spans


@pytest.mark.parametrize("spans", [(), (4, 9), (9, 9), (20, 9)])
def test_spans_out_of_order_are_refused(spans: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="spans"):
        check_spans(spans, 4)


def test_ascending_spans_beyond_the_sink_pass() -> None:
    check_spans((5,), 4)
    check_spans((6, 9, 20), 0)
    with pytest.raises(ArgumentError, match="sink -1"):
        check_spans((6, 9), -1)
