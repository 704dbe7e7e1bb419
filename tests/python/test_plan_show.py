"""moa-tools plan show: heat maps as PNG and in the terminal."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from moa_rt import ArgumentError, AttentionPlan
from moa_tools.cli import main
from moa_tools.plan import plots, terminal

_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def plan() -> AttentionPlan:
    rules: list[list[tuple[int, float]]] = [[(0, 1.0), (128, 0.0)], [(0, 0.25), (512, 0.0)]]
    return AttentionPlan.from_rules(rules, min_length=512, max_length=4096)


@pytest.fixture
def file(plan: AttentionPlan, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    plan.save(path)
    return path


def test_terminal_map_holds_every_span(plan: AttentionPlan) -> None:
    text = terminal.render(plan, [2048, 4096], colour=False)
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines() if re.match(r"\s+[01] ", line)]
    spans = [[head.span for head in row] for n in (2048, 4096) for row in plan.spans(n)]
    assert [[int(cell) for cell in row[1:]] for row in rows if len(row) == 3] == spans


def test_terminal_colours_are_escape_codes(plan: AttentionPlan) -> None:
    text = terminal.render(plan, [2048], colour=True)
    assert "\x1b[" in text
    assert re.sub(r"\x1b\[[0-9;]*m", "", text).replace(" ", "") == terminal.render(
        plan, [2048], colour=False
    ).replace(" ", "")


@pytest.mark.parametrize("n", [256, 2048, 32768])
def test_shades_rise_with_the_span(n: int) -> None:
    shades = [terminal.shade(span, 128, n) for span in range(64, n + 64, 64)]
    assert shades == sorted(shades)
    assert shades[-1] == terminal.shade(n, 128, n) > terminal.shade(n - 64, 128, n)


@pytest.mark.parametrize(
    ("count", "text"), [(960, "960"), (1024, "1k"), (1536, "1.5k"), (131072, "128k")]
)
def test_short_tokens(count: int, text: str) -> None:
    assert plots.short_tokens(count) == text


def test_png_is_an_image_and_repeats(plan: AttentionPlan, tmp_path: Path) -> None:
    images = []
    for name in ("a.png", "b.png"):
        plots.spans_heat_map(plan, [1024, 4096], tmp_path / name, "a plan")
        images.append((tmp_path / name).read_bytes())
    assert images[0].startswith(_PNG)
    width, height = struct.unpack(">II", images[0][16:24])
    assert width > 300
    assert height > 300
    assert images[0] == images[1]
    plots.spans_heat_map(plan, [1024], tmp_path / "one.png")
    one = (tmp_path / "one.png").read_bytes()
    assert struct.unpack(">I", one[16:20])[0] < width


def test_png_of_a_large_plan_and_of_short_lengths(tmp_path: Path) -> None:
    large = AttentionPlan.from_rules([[(0, 0.5)] * 40] * 100)
    plots.spans_heat_map(large, [100, 8192], tmp_path / "large.png")
    assert (tmp_path / "large.png").read_bytes().startswith(_PNG)


def test_bad_png_arguments(plan: AttentionPlan, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no length"):
        plots.spans_heat_map(plan, [], tmp_path / "a.png")
    with pytest.raises(ArgumentError, match=r"ends in \.png"):
        plots.spans_heat_map(plan, [1024], tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []


def test_command_writes_the_map_and_prints_it(file: Path, capsys: Any) -> None:
    image = file.with_suffix(".png")
    assert (
        main(["plan", "show", str(file), "--length", "2048", "--heads", "--png", str(image)]) == 0
    )
    assert image.read_bytes().startswith(_PNG)
    out = capsys.readouterr().out
    assert "spans at N = 2048, density 0.3906" in out
    assert "\x1b" not in out  # standard output is no terminal here
    assert main(["plan", "show", str(file), "--png", str(file.parent / "no" / "a.png")]) == 7
