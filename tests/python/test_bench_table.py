"""Tables, verdicts and plots from a run made by hand."""

from dataclasses import replace
from pathlib import Path

import moa_tools.bench
import pytest
from moa_rt import MismatchError
from moa_tools.bench.cpu_rows import Timing
from moa_tools.bench.cpu_rows import row as cpu_row
from moa_tools.bench.end_rows import by_median
from moa_tools.bench.goals import GOALS, judge
from moa_tools.bench.kernel_tables import attention_table, kernels_table
from moa_tools.bench.kernels import parse_line
from moa_tools.bench.ladder import climb, ladder_table
from moa_tools.bench.markdown import number
from moa_tools.bench.plot import draw
from moa_tools.bench.record import Missing, Row, Run, load
from moa_tools.bench.table import end_to_end_table, goals_table, render
from moa_tools.cli import main

MODEL, SETTING = "llama-2-7b", "3k+1k"
DYNAMIC = "transformers dynamic cache"
STATIC = "transformers static cache + compile"
HALF: dict[str, str | int | float] = {
    "model": "7B: 32 heads",
    "plan": "mixed 50%",
    "batch": 8,
    "tokens": 8192,
}


def end(system: str, plan: str, batch: int, tok_s: float, full: int = 1) -> Row:
    case: dict[str, str | int | float] = {
        "model": MODEL,
        "setting": SETTING,
        "plan": plan,
        "density": 1.0,
        "batch": batch,
        "full": full,
    }
    return Row("end to end", system, case, {"tok_s": tok_s, "TB_s": 2.4, "ms_step": 1e3 / tok_s})


def make_run() -> Run:
    run = Run("gpu", "2026-01-02T03:04:05Z", "moa-tools bench gpu", {"device": "Device X"})
    run.ceilings = {"read_TB_s": 3.0}
    run.rows = [
        end(DYNAMIC, "dense", 30, 250.0),
        end("moa_rt", "dense", 31, 1000.0),
        end("moa_rt", "dense", 30, 900.0, full=0),
        end("moa_rt", "uniform 50%", 30, 1200.0, full=0),
        end("moa_rt", "uniform 50%", 62, 1900.0),
        end(STATIC, "dense", 30, 500.0),
    ]
    run.missing = [Missing("FlashInfer", "ModuleNotFoundError: No module named 'flashinfer'")]
    return run


def add_decode(run: Run, times: tuple[int, ...], more: str = "") -> None:
    """Our decode attention with half the tokens of `HALF`: microseconds of every turn."""
    text = '{"goal": "D4", "model": "7B: 32 heads", "batch": 8, "what": "50 % / dense", '
    for turn, us in enumerate(times):
        row = parse_line(text + f'"us": {us}, "base_us": 200, "ratio": 0.5{more}}}', "attention")
        run.rows.append(Row(row.section, row.system, {**row.case, "turn": turn}, row.figures))


def verdict(run: Run, what: str) -> tuple[float, str, str]:
    for goal, findings in judge(run):
        if goal.what.startswith(what):
            worst = goal.worst(findings)
            return worst.value, worst.base, goal.state(findings)
    raise KeyError(what)


def state_of(run: Run, what: str) -> str:
    return verdict(run, what)[2]


def test_goals_are_judged_by_their_worst_case_and_name_the_base() -> None:
    run = make_run()
    value, base, state = verdict(run, "full memory, 50 %")
    assert value == pytest.approx(1.9)
    assert state == "floor"
    assert base.startswith("own dense 1000 tok/s at batch 31 (median), ours 1900 at 62 (median)")
    value, base, state = verdict(run, "full-memory dense")
    assert value == pytest.approx(0.8)
    assert state == "floor"
    assert "2.40 of 3.00 TB/s" in base
    value, base, state = verdict(run, "50 % plan against transformers' dynamic")
    assert value == pytest.approx(7.6)
    assert state == "floor"
    assert base.startswith(f"{DYNAMIC} 250 tok/s at batch 30 (median), ours 1900 at 62 (median)")


def test_kernel_lines_become_verdicts() -> None:
    run = make_run()
    lines = [
        '{"device": "cuda:0 (X)", "read_TB_s": 2.9}',
        '{"goal": "D1", "model": "7B: 32 heads", "batch": 8, "span": 2048, "layer_MB": 268.4, '
        '"us_per_layer": 97.2, "TB_s": 2.7, "share_of_read": 0.93}',
        '{"goal": "D2", "model": "7B: 32 heads", "batch": 1, "span": 2048, "layer_MB": 33.6, '
        '"us_per_layer": 9.0, "TB_s": 1.2, "share_of_read": 0.4}',
        '{"goal": "D3", "model": "7B: 32 heads", "batch": 8, "what": "mixed / uniform, 50 %", '
        '"us": 105, "base_us": 100, "spread": 0.01, "ratio": 1.05}',
        '{"goal": "D4", "model": "7B: 32 heads", "batch": 8, "what": "50 % / dense, 8192", '
        '"us": 51, "base_us": 100, "spread": 0.01, "ratio": 0.51}',
        '{"product": [16, 6144, 4096], "cublas_share_of_read": 0.7, "own_share_of_read": null}',
    ]
    rows = [parse_line(line, "attention") for line in lines]
    run.rows += [Row(r.section, r.system, {**r.case, "turn": 0}, r.figures) for r in rows]
    assert state_of(run, "decode attention, 256 MB") == "floor"
    assert verdict(run, "decode attention, 256 MB")[0] == pytest.approx(0.9)
    assert state_of(run, "the same, batch 1, 32 MB") == "missed"
    assert verdict(run, "the same, batch 1, 32 MB")[0] == pytest.approx(0.4)
    assert state_of(run, "mixed plan over uniform") == "floor"
    assert verdict(run, "mixed plan over uniform")[0] == pytest.approx(1.05)
    assert state_of(run, "50 % plan over own dense") == "target"
    assert verdict(run, "50 % plan over own dense")[0] == pytest.approx(0.51)
    assert rows[-1].case["product"] == "16 x 6144 x 4096"
    assert "own_share_of_read" not in rows[-1].figures


def test_a_peer_is_compared_at_its_fastest_round_with_our_slowest() -> None:
    run = make_run()
    add_decode(run, (100, 110))
    times = ((120e-6,), (130e-6,), (125e-6,))
    run.rows.append(Row("decode attention", "slow", HALF, {"us": 999.0}, ((999e-6,),)))
    run.rows.append(Row("decode attention", "best", HALF, {"us": 125.0}, times))
    value, base, state = verdict(run, "against the best peer kernel")
    assert value == pytest.approx(120 / 110)
    assert base.startswith("best 120.0 us (fastest round) over 110.0 us (median)")
    assert state == "floor"


def test_our_slowest_round_is_the_median_plus_its_spread_where_one_is_told() -> None:
    run = make_run()
    add_decode(run, (110,))
    add_decode(run, (100,), ', "spread": 0.3')
    for system, us in (("steady", (121.0, 121.0, 121.0)), ("swift once", (117.0, 125.0, 125.0))):
        times = tuple((value * 1e-6,) for value in us)
        run.rows.append(Row("decode attention", system, HALF, {"us": us[1]}, times))
    value, base, state = verdict(run, "against the best peer kernel")
    assert value == pytest.approx(117 / 130)
    assert base.startswith("swift once 117.0 us (fastest round) over 130.0 us (median plus spread)")
    assert state == "missed"


def test_a_prompts_slowest_round_is_compared_with_the_peers_fastest() -> None:
    run = make_run()
    for goal, system, plan in (
        ("P1", "SDPA cuDNN", "dense"),
        ("P2", "flex_attention", "mixed 50%"),
    ):
        case: dict[str, str | int | float] = {"goal": goal, "model": HALF["model"], "what": "w"}
        figures = {"ms": 1.0, "visible_TFLOP_s": 400.0, "spread": 0.25}
        run.rows.append(Row("kernels", "moa_rt", {**case, "tokens": 8192, "turn": 0}, figures))
        times = ((1e-3,), (1.5e-3,), (2e-3,))
        theirs = {**HALF, "batch": 1, "plan": plan}
        run.rows.append(Row("prefill attention", system, theirs, {"us": 1500.0}, times))
    for what in ("dense causal prefill", "against flex_attention"):
        value, base, _ = verdict(run, what)
        assert value == pytest.approx(1.0 / 1.25)
        assert "1000.0 us (fastest round) over 1250.0 us (median plus spread)" in base


def test_goals_without_rows_are_not_measured() -> None:
    run = Run("cpu", "2026-01-02T03:04:05Z", "x")
    assert {goal.state(findings) for goal, findings in judge(run)} == {"not measured"}
    assert {goal.name for goal, _ in judge(run)} == {"C1", "C2", "C3"}
    assert {goal.name for goal in GOALS} >= {"D1", "D5", "P3", "E1", "E5", "M1"}


def test_the_ladder_turns_one_switch_at_a_time() -> None:
    run = make_run()
    ladder = climb(run)
    assert [what for what, _ in ladder.rungs] == [
        "dynamic cache",
        "static cache, compiled",
        "kernels and one graph a step",
        "fewer bytes",
        "larger batch",
    ]
    rates = [row.figures["tok_s"] for _, row in ladder.rungs]
    assert rates == [250.0, 500.0, 900.0, 1200.0, 1900.0]
    assert ladder.lacks.startswith("fewer bytes still and a larger batch (moa_rt, uniform 25%")
    run.rows.append(end("moa_rt", "uniform 25%", 124, 3600.0))
    assert len(climb(run).rungs) == 6
    assert climb(run).lacks == ""
    assert "ends here" not in ladder_table(run)


def test_the_ladder_ends_below_the_first_rung_that_is_lacking_and_says_so() -> None:
    run = make_run()
    run.rows = [row for row in run.rows if row.case["full"]]  # no rung of ours at the peer's batch
    assert [what for what, _ in climb(run).rungs] == ["dynamic cache", "static cache, compiled"]
    text = render(run).split("### One switch at a time")[1]
    assert "1900" not in text
    assert "ends here: the run has no row for kernels and one graph a step (moa_rt, dense, " in text
    run.rows = run.rows[:1]
    assert f"no row for static cache, compiled ({STATIC}" in render(run)


def test_the_static_rung_has_the_dynamic_caches_batch() -> None:
    run = make_run()
    run.rows[-1] = end(STATIC, "dense", 29, 500.0)
    assert [what for what, _ in climb(run).rungs] == ["dynamic cache"]
    assert climb(run).lacks.endswith("dense, batch 30)")


def test_every_ratio_in_the_table_has_its_base() -> None:
    text = render(make_run())
    for line in text.splitlines():
        for cell in line.split("|"):
            if cell.strip().endswith("x"):
                pytest.fail(f"a ratio without its base: {line}")
    assert "1.90x of 1000" in text  # over our own dense
    assert "1.80x of 500" in text  # the ladder, over the rung before
    assert "| FlashInfer | ModuleNotFoundError" in text
    assert "Device X" in text
    assert "2026-01-02" in text


def test_numbers_keep_three_digits() -> None:
    assert [number(v) for v in (None, 0, 0.12345, 12.345, 123.45, 1234.5, 0.00012345)] == [
        "-",
        "0",
        "0.123",
        "12.3",
        "123",
        "1234",
        "1.23e-04",
    ]


def test_the_command_makes_table_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    make_run().save(path)
    markdown, png = tmp_path / "run.md", tmp_path / "run.png"
    assert main(["bench", "table", str(path), "-o", str(markdown), "--png", str(png)]) == 0
    assert markdown.read_text() == render(make_run())
    assert png.read_bytes().startswith(b"\x89PNG")
    assert main(["bench", "table", str(path)]) == 0
    assert capsys.readouterr().out == markdown.read_text()


def test_a_run_without_rows_has_no_plot(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="no end-to-end rows"):
        draw(Run("gpu", "2026-01-02T03:04:05Z", "x"), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def lines_of(table: str, *words: str) -> list[list[str]]:
    """Cells of the rows that hold all words."""
    rows = [line for line in table.splitlines() if all(word in line for word in words)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_value_just_beyond_its_bound_shows_as_that() -> None:
    run = make_run()
    line = '{"goal": "D3", "model": "M", "batch": 1, "what": "mixed / uniform", %s}'
    for turn, times in enumerate(('"us": 110.2, "base_us": 100', '"us": 101, "base_us": 100')):
        row = parse_line(line % times, "attention")
        run.rows.append(Row(row.section, row.system, {**row.case, "turn": turn}, row.figures))
    ((_, _, worst, base, best, floor, _, state),) = lines_of(goals_table(run), "| D3 |")
    assert (worst, best, floor) == ("1.102", "1.010 (of 2 cases)", "<= 1.1")
    assert base == "110.2 over 100.0 us, M, batch 1"
    assert state == "missed"
    assert "floor met, target not" in goals_table(run)


def test_what_bytes_allow_stands_beside_a_plans_gain() -> None:
    run = make_run()
    dense, plan = run.rows[1], run.rows[4]
    for row, rate in ((dense, 2.0), (plan, 2.5)):
        assert isinstance(row.figures, dict)
        row.figures["TB_s"] = rate
    # 1.9 times the tokens at 1.25 times the bytes a second: 1.52 by bytes.
    assert verdict(run, "full memory, 50 %")[1].endswith("bytes allow 1.52")


def test_rows_at_another_batch_are_not_compared_with_full_memory() -> None:
    table = end_to_end_table(make_run())
    (part,) = lines_of(table, "| dense |", "| 30 |")
    assert part[7] == "-"
    assert [row[2] for row in lines_of(table, MODEL)][:3] == [DYNAMIC, STATIC, "moa_rt"]


def test_our_kernels_stand_among_the_peers_and_in_their_units() -> None:
    run = make_run()
    add_decode(run, (100, 125))
    for system, time in (("slow", 500.0), ("fast", 250.0)):
        figures = {"us": time, "TB_s": 600.0 / time, "spread": 0.01}
        run.rows.append(Row("decode attention", system, HALF, figures))
    table = attention_table(run, "decode attention", "TB_s", "TB/s kept")
    cells = [row[4:8] for row in lines_of(table, "mixed 50%")]
    assert cells == [  # ours at its slowest
        ["**moa_rt**", "125", "4.8", "1.00x of 125"],
        ["fast", "250", "2.4", "2.00x of 125"],
        ["slow", "500", "1.2", "4.00x of 125"],
    ]


def test_a_plans_prefill_rate_stands_over_our_dense_one() -> None:
    run = make_run()
    for goal, what, rate in (("P1", "dense causal", 400.0), ("P2", "mixed, 50 %", 360.0)):
        case: dict[str, str | int | float] = {
            "goal": goal,
            "model": "7B: 32 heads",
            "tokens": 4096,
            "what": what,
            "turn": 0,
        }
        figures = {"ms": 0.5, "visible_TFLOP_s": rate, "spread": 0.012}
        run.rows.append(Row("kernels", "moa_rt", case, figures))
    (dense,) = lines_of(kernels_table(run), "dense causal")
    (plan,) = lines_of(kernels_table(run), "mixed, 50 %")
    assert dense[-2:] == ["-", "1.2%"]
    assert plan[-3:] == ["360 TFLOP/s visible", "0.900 of 400 TFLOP/s dense", "1.2%"]
    assert plan[3:5] == ["0", "0.5 ms"]


def test_every_turn_of_a_kernel_is_in_the_table() -> None:
    run = make_run()
    add_decode(run, (100, 125))
    rows = [row[3:7] for row in lines_of(kernels_table(run), "| D4 |")]
    assert rows == [
        ["0", "100 us", "-", "0.500 of 200 us"],
        ["1", "125 us", "-", "0.625 of 200 us"],  # what the goals table has as the worst
    ]
    assert verdict(run, "50 % plan over own dense")[0] == 0.625
    run.rows = run.rows[-1:]
    assert "### Our kernels alone" in render(run)


def uneven(row: Row, mean_ms: float, seconds: tuple[tuple[float, ...], ...]) -> Row:
    """As runs were stored: rates of the mean beside the times of every round."""
    figures = {"TB_s": 1.0, "share_of_roofline": 0.5, "spread": 9.0, "ms_step": mean_ms}
    return replace(row, figures={**row.figures, **figures}, seconds=seconds)


def uneven_run() -> Run:
    """A peer whose first round was cold, median 75 ms; a plan with rounds of 18, 17 and 25 ms."""
    run = make_run()
    peer, dense, plan = run.rows[0], run.rows[1], run.rows[4]
    peer = replace(peer, figures={"tok_s": 30 / 0.0825})
    plan = replace(plan, figures={"tok_s": 62 / 0.02})
    run.rows = [
        uneven(peer, 82.5, ((0.0999,), (0.075,), (0.0726,))),
        dense,
        uneven(plan, 20.0, ((0.018, 0.018), (0.016, 0.018), (0.030, 0.020))),
    ]
    return run


def test_end_to_end_rates_are_those_of_the_median_round() -> None:
    table = end_to_end_table(uneven_run())
    ((*_, rate, _, ms, spread, byte_rate, share, _, _, _),) = lines_of(table, DYNAMIC)
    assert (rate, ms, spread, byte_rate, share) == ("400", "75", "37.6%", "1.1", "0.55")
    ((*_, rate, _, ms, spread, byte_rate, share, _, _, _),) = lines_of(table, "uniform 50%")
    assert (rate, ms, spread, byte_rate, share) == ("3444", "18", "47.1%", "1.11", "0.556")


def test_a_plan_is_judged_by_its_slowest_round_over_its_bases_fastest() -> None:
    value, base, _ = verdict(uneven_run(), "50 % plan against transformers' dynamic")
    assert value == pytest.approx((62 / 0.025) / (30 / 0.0726))
    want = f"{DYNAMIC} 413 tok/s at batch 30 (fastest round), ours 2480 at 62 (slowest round), "
    assert base.startswith(want)
    value, base, _ = verdict(uneven_run(), "full memory, 50 %")
    assert value == pytest.approx(62 / 0.025 / 1000)
    assert base.startswith("own dense 1000 tok/s at batch 31 (median), ours 2480 at 62 (slowest")


def test_the_median_of_a_median_is_itself() -> None:
    for row in uneven_run().rows:
        once = by_median(row)
        assert by_median(once).figures == pytest.approx(once.figures)


def test_stored_runs_give_their_tables() -> None:
    place = Path(moa_tools.bench.__file__).parent / "results"
    paths = list(place.glob("*.json"))
    assert paths
    assert all("### Goals" in render(load(path)) for path in paths)
    table = end_to_end_table(load(place / "2026-11-22-h100-end-to-end.json"))
    ((*_, rate, _, _, spread, _, _, _, _, _),) = lines_of(table, "llama-3-8b", DYNAMIC)
    assert (rate, spread) == ("1523", "37.3%")


def test_processors_are_judged_by_repetitions_and_show_both_ceilings() -> None:
    environment = {"threads": "2", "load_average": "0.10", "load_average_after": "0.20"}
    run = Run("cpu", "2026-01-02T03:04:05Z", "x", environment)
    run.ceilings = {"read_GB_s": 30.0, "read_before_GB_s": 20.0, "read_after_GB_s": 30.0}
    for system, prefill, step in (
        ("moa_rt", (1.0, 2.0, 4.0), (0.01, 0.02, 0.05)),
        ("llama.cpp", (6.0, 5.0, 7.0), (0.1, 0.2, 0.3)),
        ("llama.cpp flash attention", (9.0, 3.0, 9.0), (0.2, 0.2, 0.2)),
    ):
        case: dict[str, str | int | float] = {"model": "m", "tokens": 300, "plan": "dense"}
        times = [Timing(*pair) for pair in zip(prefill, step, strict=True)]
        run.rows.append(cpu_row(system, case, 300, times, step_bytes=10**9))
    value, base, _ = verdict(run, "CPU decode against llama.cpp")
    assert value == pytest.approx(0.1 / 0.05)
    assert base == "llama.cpp 10 tok/s (fastest round), ours 20 (slowest round), 300 tokens"
    value, base, _ = verdict(run, "CPU prefill against llama.cpp")
    assert value == pytest.approx(3.0 / 4.0)
    assert base.startswith("llama.cpp flash attention 100 tok/s (fastest round), ours 75 (slowest")
    text = render(run)
    assert "load average 0.10 before and 0.20 after" in text
    assert "read 30 GB/s, read before 20 GB/s, read after 30 GB/s" in text
