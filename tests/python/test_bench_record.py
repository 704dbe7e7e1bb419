"""Run files: what is written is read again, what is not one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from moa_rt import FormatError, IoError, UnsupportedError
from moa_tools.bench.record import Missing, Row, Run, load, parse


def make_run() -> Run:
    run = Run(
        "gpu", "2026-01-02T03:04:05Z", "moa-tools bench gpu", {"device": "D"}, {"read_TB_s": 3.0}
    )
    case: dict[str, str | int | float] = {"model": "m", "batch": 2, "density": 0.5}
    run.rows.append(Row("end to end", "moa_rt", case, {"tok_s": 10.0}, ((0.1, 0.2), (0.3,))))
    run.missing.append(Missing("peer", "is not installed"))
    run.sections.append("ceilings")
    return run


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = make_run()
    run.save(tmp_path / "run.json")
    again = load(tmp_path / "run.json")
    assert again == run
    assert again.to_bytes() == run.to_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_rows_are_selected_by_section_system_and_case() -> None:
    run = make_run()
    assert run.select("end to end", "moa_rt", batch=2) == run.rows
    assert run.select("end to end", "other") == []
    assert run.select("end to end", batch=3) == []
    assert run.select("decode attention") == []


def test_a_run_of_before_sections_were_stored_is_read() -> None:
    document = json.loads(make_run().to_bytes())
    del document["sections"]
    old = parse(json.dumps(document).encode(), "run.json")
    assert old.sections == []
    assert "sections" not in json.loads(old.to_bytes())


def change(path: list[Any], value: Any) -> bytes:
    document = json.loads(make_run().to_bytes())
    at = document
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (["kind"], "tpu", "kind"),
        (["date"], 3, "date"),
        (["rows"], {}, "rows"),
        (["rows", 0, "figures", "tok_s"], "fast", "tok_s"),
        (["rows", 0, "figures", "tok_s"], True, "tok_s"),
        (["rows", 0, "case", "batch"], [2], "batch"),
        (["rows", 0, "seconds"], [1.0], "seconds"),
        (["rows", 0, "colour"], "red", "colour"),
        (["missing", 0, "reason"], None, "missing"),
        (["ceilings", "read_TB_s"], None, "read_TB_s"),
        (["sections"], "all", "sections"),
        (["sections", 0], 1, "sections"),
        (["more"], 1, "more"),
    ],
)
def test_a_wrong_field_is_named(path: list[Any], value: Any, field: str) -> None:
    with pytest.raises(FormatError, match=field):
        parse(change(path, value), "run.json")


def test_a_missing_field_another_schema_and_no_json_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="schema"):
        parse(change(["schema"], 2), "run.json")
    document = json.loads(make_run().to_bytes())
    del document["rows"]
    with pytest.raises(FormatError, match="missing: rows"):
        parse(json.dumps(document).encode(), "run.json")
    with pytest.raises(FormatError, match=r"run\.json"):
        parse(b"{", "run.json")
    with pytest.raises(FormatError, match="NaN"):
        parse(make_run().to_bytes().replace(b"10.0", b"NaN"), "run.json")
    with pytest.raises(IoError, match="none"):
        load(tmp_path / "none.json")
