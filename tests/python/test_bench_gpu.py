"""A GPU run's machinery, dry: sections in processes of their own, limits, names, errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    DeviceError,
    Engine,
    IoError,
    MismatchError,
    ModelConfig,
    ResourceError,
)
from moa_tools.bench import (
    commands,
    decode_run,
    end_to_end,
    environment,
    gpu,
    random_model,
    section,
    shapes,
)
from moa_tools.bench.decode_run import Decode, Setting
from moa_tools.bench.end_to_end import Job
from moa_tools.bench.options import GpuOptions
from moa_tools.bench.random_model import ready_model, remove_parts, write_model
from moa_tools.bench.record import NOT_ASKED, Missing, Row, Run, load, parse_row
from moa_tools.bench.table import render
from moa_tools.cli import main

TINY = shapes.find("tiny-gqa")


def dry(work_dir: Path, **fields: Any) -> GpuOptions:
    values: dict[str, Any] = {
        "device": "cpu",
        "models": ("tiny-gqa",),
        "settings": ("tiny",),
        "engine_plans": ("dense", "mixed 50%"),
        "steps": 4,
        "memory_bytes": 1,  # batch 1 is the largest
        "work_dir": str(work_dir),
    }
    return GpuOptions(**{**values, **fields})


def asked_and_missing(run: Run) -> list[Missing]:
    return [missing for missing in run.missing if missing.reason != NOT_ASKED]


def not_asked(run: Run) -> list[str]:
    return [missing.what for missing in run.missing if missing.reason == NOT_ASKED]


def test_a_random_model_opens_and_decodes(tmp_path: Path) -> None:
    directory = ready_model(tmp_path, TINY)
    assert ModelConfig.load(str(directory)).num_key_value_heads == 2
    assert (directory / "model.safetensors").stat().st_size == random_model.model_bytes(TINY)
    with Engine(directory, max_seq_len=64, num_threads=1) as engine:
        logits = engine.logits([5, 6, 7])
        assert logits.std() > 0.1
        assert engine.options.dtype == "bfloat16"
    assert list(tmp_path.iterdir()) == [directory]


def test_our_rates_are_those_of_the_median_third_of_the_steps(tmp_path: Path) -> None:
    directory = ready_model(tmp_path, TINY)
    steps = (0.9, 0.1, 0.3, 0.1, 0.1, 0.1)  # thirds of 0.5, 0.2 and 0.1 s a step
    with Engine(directory, max_seq_len=64, max_batch=2, num_threads=1) as engine:
        decode = Decode(Setting(2, 16, 16, 8), steps, 20, 1.0)
        figures = decode_run.figures(engine, decode, 1e9)
        read = decode_run.step_bytes(engine, engine.plan, decode)
    assert figures["tok_s"] == pytest.approx(2 / 0.2)
    assert figures["ms_step"] == pytest.approx(200.0)
    assert figures["spread"] == pytest.approx(4.0)
    assert figures["TB_s"] == pytest.approx(read / 0.2 * 1e-12)
    assert figures["share_of_roofline"] == pytest.approx(read / 0.2 * 1e-9)


def test_a_random_model_is_written_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            ready_model(tmp_path, TINY)
    assert list(tmp_path.iterdir()) == []
    written = ready_model(tmp_path, TINY) / "model.safetensors"
    first = written.stat().st_mtime_ns
    assert ready_model(tmp_path, TINY) == written.parent
    assert written.stat().st_mtime_ns == first
    (tmp_path / "random-other-bfloat16.part-12").mkdir()
    remove_parts(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 2
    remove_parts(tmp_path, 12)
    assert list(tmp_path.iterdir()) == [written.parent]


def test_a_random_model_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_model, "model_bytes", lambda *_: 1 << 60)
    with pytest.raises(ResourceError, match="missing"):
        write_model(tmp_path / "m", TINY)
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_rows_and_names_what_is_missing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    lines: list[str] = []
    output = tmp_path / "run.json"
    run = gpu.run_all(
        dry(work),
        ["kernels", "engine-tiny-gqa-tiny"],
        output,
        lines.append,
        command="x",
        commit="abc",
    )
    assert load(output) == run
    assert [(row.case["plan"], row.case["batch"]) for row in run.rows] == [
        ("dense", 1),
        ("dense", 1),
        ("mixed 50%", 1),
    ]
    assert run.rows[0].figures["cache_over_spans"] == 1.0
    assert run.rows[0].figures["tok_s"] > 0
    assert all(row.figures["first_token_ms"] > 0 for row in run.rows)
    assert asked_and_missing(run) == [
        Missing("kernels: attention bench", "no --bench-dir was given")
    ]
    assert not_asked(run) == [
        *("ceilings", "attention", "attention-flashinfer", "attention-flex"),
        *("transformers-dynamic-tiny-gqa-tiny", "transformers-static-tiny-gqa-tiny"),
        *("kernels-again", "decoder"),
    ]
    assert "| decoder | was not asked for |" in render(run)
    assert run.environment["commit"] == "abc"
    assert any("no --bench-dir" in line for line in lines)
    assert list(work.iterdir()) == []


def test_a_section_that_hangs_is_stopped_and_named(tmp_path: Path) -> None:
    results = list(gpu.run_section("engine-tiny-gqa-tiny", dry(tmp_path), {}, 0.05))
    assert results == [
        Missing("engine-tiny-gqa-tiny", "stopped after 0 s; what it had measured is kept")
    ]


def test_sections_beyond_the_time_are_left_out(tmp_path: Path) -> None:
    run = gpu.run_all(
        dry(tmp_path),
        ["ceilings", "attention"],
        tmp_path / "run.json",
        lambda _: None,
        command="x",
        seconds=1.0,
    )
    assert [m.reason for m in asked_and_missing(run)] == ["no time was left for it"] * 2
    assert run.rows == []


def test_a_section_that_raises_is_named_with_its_reason(tmp_path: Path) -> None:
    class Lines:
        def __init__(self) -> None:
            self.text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None:
            pass

    out: Any = Lines()
    options = dry(tmp_path, bench_dir=str(tmp_path / "none"))
    section.serve({"section": "kernels", "options": options.to_json(), "context": {}}, out)
    missing = json.loads(out.text)["missing"]
    assert missing["what"] == "kernels"
    assert missing["reason"].startswith("IoError: ")
    assert "moa_rt_attention_bench: no such file" in missing["reason"]


def test_kernel_benchmarks_are_run_and_read_line_by_line(tmp_path: Path) -> None:
    script = tmp_path / "moa_rt_attention_bench"
    script.write_text(
        '#!/bin/sh\necho \'{"device": "D", "read_TB_s": 2.5}\'\necho bad >&2\nexit 1\n'
    )
    script.chmod(0o755)
    results = list(
        gpu.run_section("kernels-again", dry(tmp_path, bench_dir=str(tmp_path)), {}, 60.0)
    )
    case: dict[str, str | int | float] = {"bench": "attention", "device": "D", "turn": 1}
    assert results[0] == Row("kernels", "moa_rt", case, {"read_TB_s": 2.5})
    assert isinstance(results[1], Missing)
    assert "exit status 1: bad" in results[1].reason


def test_lines_of_a_section_are_read_as_they_were_written() -> None:
    row = Row("s", "y", {"a": 1, "b": "x", "c": 0.5}, {"us": 2.0}, ((1.0,),))
    assert parse_row(json.loads(section.to_line(row))["row"], "x") == row


def test_unknown_names_are_told_with_all_known_ones() -> None:
    options = GpuOptions(models=("llama-2-7b",))
    with pytest.raises(ArgumentError, match=r"frobnicate.*engine-llama-2-7b-3k"):
        gpu.choose(options, ["frobnicate"])
    with pytest.raises(ArgumentError, match="engine-llama-3-8b-3k"):
        gpu.choose(options, ["engine-llama-3-8b-3k+1k"])
    with pytest.raises(ArgumentError, match="gpt-5"):
        GpuOptions(models=("gpt-5",))
    with pytest.raises(ArgumentError, match="9k"):
        GpuOptions(settings=("9k",))
    with pytest.raises(ArgumentError, match="steps"):
        GpuOptions(steps=1)
    with pytest.raises(ArgumentError, match=r"got eng, want"):
        gpu.choose(options, ["eng"])
    assert gpu.choose(options, ["attention-flex", "ceilings"]) == ["ceilings", "attention-flex"]
    assert gpu.choose(options, ["attention"]) == [
        "attention",
        "attention-flashinfer",
        "attention-flex",
    ]
    settings = ("3k+1k", "6k+2k")
    both = GpuOptions(models=("llama-2-7b", "llama-3-8b"), settings=settings)
    assert gpu.choose(both, ["engine"]) == [
        f"engine-{model}-{setting}" for setting in settings for model in both.models
    ]
    quick = GpuOptions(quick=True, settings=settings)
    assert gpu.choose(quick, [])[-1] == "engine-llama-2-7b-3k+1k"
    assert "transformers-static-llama-2-7b-12k+4k" in gpu.choose(options, [])
    assert all(gpu.limit_of(name) > 0 for name in gpu.choose(GpuOptions(), []))


def test_options_travel_as_json() -> None:
    options = GpuOptions(plans=(("llama-2-7b", "a.json"),), quick=True)
    assert GpuOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_without_a_gpu_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "gpu", dict)
    with pytest.raises(DeviceError, match="no GPU"):
        gpu.check_device("cuda:1")
    assert main(["bench", "gpu", "-o", str(tmp_path / "run.json")]) == 10
    assert "error[E_DEVICE]: bench gpu: no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_plan_is_told_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text("{}")
    output = str(tmp_path / "run.json")
    command = ["bench", "gpu", "-o", output, "--plans"]
    assert main([*command, f"llama-2-7b={tmp_path / 'plan.json'}"]) == 3
    assert main([*command, f"llama-2-7b={tmp_path / 'none.json'}"]) == 7
    assert main([*command, "none.json"]) == 2
    assert "want SHAPE=FILE" in capsys.readouterr().err
    with pytest.raises(IoError):
        GpuOptions(plans=(("llama-2-7b", str(tmp_path / "none.json")),)).published()


def test_a_run_is_continued_on_the_same_device_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run.json"
    here = {"device": "A", "driver": "1", "commit": "c", "moa_rt": "0"}
    monkeypatch.setattr(environment, "describe", lambda *_: dict(here))

    def run(sections: list[str], command: str) -> Any:
        return gpu.run_all(
            dry(tmp_path), sections, output, print, command=command, seconds=1.0, resume=True
        )

    first = run(["ceilings", "decoder"], "one")
    assert [m.what for m in asked_and_missing(first)] == ["ceilings", "decoder"]
    again = run(["ceilings"], "two")
    assert sorted(m.what for m in asked_and_missing(again)) == ["ceilings", "decoder"]
    assert again.command == "one; two"
    here["device"] = "B"
    with pytest.raises(MismatchError, match="device: got B, the run file has A"):
        run(["ceilings"], "three")
    assert load(output) == again


def test_a_section_that_a_later_command_adds_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first command ran and the second did not ask for is not missing either."""
    monkeypatch.setattr(environment, "describe", lambda *_: {})
    row = Row("s", "y", {"what": "read"}, {"us": 1.0})
    monkeypatch.setattr(gpu, "run_section", lambda *_: iter([row]))

    def run(sections: list[str], **fields: Any) -> Run:
        options, output = dry(tmp_path, **fields), tmp_path / "run.json"
        return gpu.run_all(options, sections, output, print, command="x", resume=True)

    every = gpu.choose(dry(tmp_path), ())
    assert not_asked(run(["ceilings", "decoder"])) == [
        name for name in every if name not in ("ceilings", "decoder")
    ]
    second = run(["kernels", "decoder"])
    left = [name for name in every if name not in ("ceilings", "decoder", "kernels")]
    assert not_asked(second) == left
    # Sections of another shape are named once a command is about that shape.
    third = run(["engine-tiny-gqa-tiny"], models=("tiny-gqa", "tiny-mha"))
    assert [name for name in not_asked(third) if "tiny-mha" in name] == [
        f"{name}-tiny-mha-tiny"
        for name in ("transformers-dynamic", "engine", "transformers-static")
    ]
    assert "engine-tiny-gqa-tiny" not in not_asked(third)
    assert load(tmp_path / "run.json") == third


def test_the_jobs_of_a_plan_share_an_engine_and_shrink_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small batches first; a full batch that is refused is tried again below."""
    opened: list[int] = []
    real = end_to_end._open

    def refuse_above_three(around: Any, plan: AttentionPlan, budget: int, batch: int) -> Engine:
        opened.append(batch)
        if batch > 3:
            raise ResourceError("no room")
        return real(around, plan, budget, batch)

    monkeypatch.setattr(end_to_end, "_open", refuse_above_three)
    monkeypatch.setattr(end_to_end, "full_batch", lambda *_: 5)
    directory = ready_model(tmp_path, TINY)
    around = end_to_end.Surroundings("tiny-gqa", directory, "cpu", 4, 0.0, num_threads=1)
    plan = AttentionPlan.dense(TINY.config())
    jobs = [Job("dense", "tiny", 256, batch) for batch in (0, 1)]
    rows = list(end_to_end.measure_plan(around, jobs, plan, 0))
    assert [(r.case["batch"], r.case["full"]) for r in rows if isinstance(r, Row)] == [
        (1, 0),
        (3, 1),
    ]
    assert opened == [5, 4, 3]
    refused = list(end_to_end.measure_plan(around, [Job("dense", "tiny", 256, 8)], plan, 0))
    want = "moa_rt tiny-gqa tiny dense batch 8"
    assert refused == [Missing(want, "ResourceError: no room")]


def test_a_published_plan_is_imported_for_the_shape(tmp_path: Path) -> None:
    heads, layers = 32, 32
    betas = [[0.25 if h % 4 else 1.0 for h in range(heads)] for _ in range(layers)]
    text = json.dumps({"alphas": [[0.0] * heads] * layers, "betas": betas})
    path = tmp_path / "theirs.json"
    path.write_text(text)
    options = GpuOptions(plans=(("llama-2-7b", str(path)), ("llama-3-8b", str(path))))
    assert options.published("llama-2-7b")["theirs"].density(4096) == pytest.approx(0.4375)
    # The widest head of a group of four decides for its KV head.
    assert options.published("llama-3-8b")["theirs"].density(4096) == 1.0
    config = shapes.find("llama-2-7b").config()
    plans = end_to_end.make_plans(config, options.published("llama-2-7b"), 4096)
    assert plans["uniform as theirs"].density(4096) == pytest.approx(0.4375, abs=0.02)


def test_the_command_is_recorded_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["x", "bench", "gpu", "-o", "/a/b/run.json", "--plans", "s=/c/p.json"]
    )
    assert commands._command() == "moa-tools bench gpu -o run.json --plans s=p.json"


def test_limits_name_a_section_and_whole_seconds() -> None:
    assert commands._limits(["ceilings=5"], ["ceilings"]) == {"ceilings": 5.0}
    for bad in ("ceilings", "ceilings=0", "ceilings=1.5", "other=3"):
        with pytest.raises(ArgumentError, match="SECTION=SECONDS"):
            commands._limits([bad], ["ceilings"])
