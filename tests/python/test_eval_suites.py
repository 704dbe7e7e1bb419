"""Divergence, effective context, the teacher-forced form and the command on a real, tiny engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import ArgumentError, AttentionPlan, ModelConfig, NumericError
from moa_tools import cli
from moa_tools.evaluate.divergence import DivergenceSuite, compare
from moa_tools.evaluate.effective import EffectiveSuite, Rules, ladder_of
from moa_tools.evaluate.engines import engine_factory
from moa_tools.evaluate.items import Grid
from moa_tools.evaluate.plans import parse_plans
from moa_tools.evaluate.runner import Outcome, Run, evaluate
from moa_tools.evaluate.suite import Suite
from moa_tools.progress import Silent
from moa_tools.text import Document
from support_eval import SENTENCES, Fakes, go, key_of, kit_of, run_of, suite_of
from support_reference import log_softmax


def real(run: Run, model: Path) -> Outcome:
    factory = engine_factory(model, device="cpu", dtype="auto", batch=4, threads=1)
    return evaluate(run, factory, Silent())


def results(directory: Path, suite: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "results.json").read_text())["suites"][suite]
    return loaded


def test_divergence_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(130, 50)).astype(np.float32) * 3
    b = rng.normal(size=(130, 50)).astype(np.float32) * 3
    p, q = log_softmax(a), log_softmax(b)
    got = compare(a, b)
    np.testing.assert_allclose(got.kl, (np.exp(p) * (p - q)).sum(axis=1), rtol=1e-9)
    assert (got.agree == (a.argmax(axis=1) == b.argmax(axis=1))).all()
    assert compare(a, a).kl.max() == 0.0
    assert compare(a, a + 5.0).kl.max() < 1e-6, "logits mean the same with any offset"
    b[70, 3] = np.nan
    with pytest.raises(NumericError):
        compare(a, b)


def test_divergence_of_plans_on_an_engine(tiny_dir: Path, tmp_path: Path) -> None:
    kit = kit_of(tiny_dir)
    config = ModelConfig.load(tiny_dir)
    plans = parse_plans(["uniform:1", "uniform:0.25"], config)
    prompts = [Document("a", " ".join(SENTENCES)), Document("b", " ".join(SENTENCES[::-1]) * 3)]
    suite = DivergenceSuite(kit.tokenizer, prompts, plans[0], max_tokens=768, answer_tokens=8)
    run = Run("tiny", config, tuple(plans), (suite,), tmp_path)
    real(run, tiny_dir)
    data = results(tmp_path, "divergence")
    same, narrow = data["rows"]
    assert [same["plan"], narrow["plan"]] == ["uniform:1", "uniform:0.25"]
    assert same["prompt_kl"] == same["answer_kl"] == 0.0
    assert same["answer_agree"] == 1.0
    assert narrow["prompt_kl"] > 0.001
    factory = engine_factory(tiny_dir, device="cpu", dtype="auto", batch=1, threads=1)
    dense, other = factory(plans[0].plan, 768), factory(plans[2].plan, 768)
    ids = suite._prompts[1].tolist()
    assert len(ids) == 760, "cut in the middle to leave room for the answer"
    ids += dense.generate([ids], [{"max_new_tokens": 8}])[0].token_ids
    p, q = (log_softmax(e.logits(ids, budget=768)) for e in (dense, other))
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    record = narrow["records"][1]
    assert record["prompt_kl"] == pytest.approx(kl[:759].mean(), abs=1e-5)
    assert record["answer_kl"] == pytest.approx(kl[759:-1].mean(), abs=1e-5)
    dense.close()
    other.close()


def test_teacher_forced_is_argmax_of_the_logits(tiny_dir: Path, tmp_path: Path) -> None:
    kit = kit_of(tiny_dir)
    suite = suite_of("passkey", kit, (400,), teacher_forced=True, samples=4)
    factory = engine_factory(tiny_dir, device="cpu", dtype="auto", batch=4, threads=1)
    plan = AttentionPlan.dense(ModelConfig.load(tiny_dir))
    engine = factory(plan, 400)
    forced = []
    for item in suite.items[400]:
        # The tiny model knows no answers: give it its own likeliest ones as gold, one spoiled.
        ids = item.prompt_ids.tolist()
        gold = engine.generate([ids], [{"max_new_tokens": item.max_new_tokens, "ignore_eos": True}])
        own = gold[0].token_ids
        spoiled = item.id.endswith("/2")
        own = [*own[:-1], (own[-1] + 1) % 500 + 3] if spoiled else own
        logits = engine.logits([*ids, *own], budget=400)[len(ids) - 1 : -1]
        want = bool((logits.argmax(axis=1) == np.array(own)).all())
        assert want != spoiled
        object.__setattr__(item, "gold_ids", tuple(own))
        forced.append(float(want))
    engine.close()
    real(run_of(tiny_dir, [suite], tmp_path), tiny_dir)
    journal = (tmp_path / "journal.jsonl").read_text().splitlines()
    records = [record for line in journal[1:] for record in json.loads(line)["records"]]
    assert [record["score"] for record in records] == forced


def seen(plan: AttentionPlan, length: int, depth: float) -> bool:
    """Whether every head still has, at the end, what stood at `depth`."""
    head = plan.spans(length)[0][0]
    return depth * length < head.sink or (1 - depth) * length < head.window


@pytest.fixture(scope="module")
def half_plan(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One KV head of each layer keeps 128 tokens, the other a quarter of them all."""
    path = tmp_path_factory.mktemp("plans") / "ours.json"
    AttentionPlan.from_rules([[(128, 0.0), (0, 0.25)]] * 2, max_length=65536).save(path)
    return str(path)


@pytest.mark.parametrize("dense_below", [1, 500])
def test_effective_context_at_a_fixed_mean_span(
    tiny_dir: Path, half_plan: str, tmp_path: Path, dense_below: int
) -> None:
    kit = kit_of(tiny_dir)
    config = ModelConfig.load(tiny_dir)
    ranged = json.loads(Path(half_plan).read_text())
    ranged["length_range"][0] = dense_below
    half_plan = str(tmp_path / "half.json")
    Path(half_plan).write_text(json.dumps(ranged))
    plans = parse_plans([half_plan], config)
    grid = Grid(samples=20, depths=10)
    rules = Rules(mean_span=256)
    suite = EffectiveSuite(kit, grid, config, plans, rules, longest=2048, task_tokens=8192)
    items = [item for part in suite._items.values() for item in part]
    by_prompt = {tuple(map(int, item.prompt_ids)): item for item in items}
    oracle = key_of(items, kit)

    def answer(plan: AttentionPlan, prompt: tuple[int, ...]) -> tuple[str, list[int]]:
        item = by_prompt[prompt]
        uniform = plan.rules[0][0] == plan.rules[0][1]
        if uniform and not seen(plan, item.length, item.placed):
            return " gone", [5]
        return oracle(plan, prompt)

    go(run_of(tiny_dir, [suite], tmp_path, [half_plan]), Fakes(kit.tokenizer, answer))
    data = results(tmp_path, "effective-context")
    reach = {entry["plan"]: entry for entry in data["effective"]}
    assert data["ladder"] == [256, 320, 384, 512, 768, 1024, 1536, 2048]
    # Uniform loses what left its window as soon as the input is longer than the cache.
    assert reach["uniform"]["effective"] == 256
    assert reach["uniform"]["longest_tried"] == 384, "two failures end the search"
    # Density (128 + L / 4) / 2 / L allows 256 tokens a head up to L = 1536.
    assert reach["plans"]["effective"] == 1536
    assert reach["plans"]["of_uniform"] == 6.0
    for row in data["rows"]:
        assert row["mean_span"] <= 256
        assert row["mean_span"] == 256 or row["plan"] == "plans"
    # A run that resumes finds the same.
    before = (tmp_path / "results.json").read_bytes()
    fakes = Fakes(kit.tokenizer, answer)
    go(run_of(tiny_dir, [suite], tmp_path, [half_plan]), fakes)
    assert (fakes.log, (tmp_path / "results.json").read_bytes()) == ([], before)


def test_effective_context_of_plans_as_they_are(tiny_dir: Path, tmp_path: Path) -> None:
    kit = kit_of(tiny_dir)
    config = ModelConfig.load(tiny_dir)
    plans = parse_plans(["uniform:0.5", "uniform:0.9"], config)
    rules = Rules(ladder=(400, 500, 600, 700, 800))
    grid = Grid(samples=10, depths=10)
    suite = EffectiveSuite(kit, grid, config, plans, rules, longest=2048, task_tokens=8192)
    items = [item for part in suite._items.values() for item in part]
    lengths = {tuple(map(int, item.prompt_ids)): item.length for item in items}
    oracle = key_of(items, kit)

    def answer(plan: AttentionPlan, prompt: tuple[int, ...]) -> tuple[str, list[int]]:
        length = lengths[prompt]
        lost = plan.density(length) < 0.8 and length >= 600
        return (" gone", [5]) if lost else oracle(plan, prompt)

    run = run_of(tiny_dir, [suite], tmp_path, ["uniform:0.5", "uniform:0.9"])
    go(run, Fakes(kit.tokenizer, answer))
    data = results(tmp_path, "effective-context")
    assert [(e["plan"], e["effective"], e["longest_tried"]) for e in data["effective"]] == [
        ("uniform:0.5", 500, 700),
        ("uniform:0.9", 800, 800),
    ]


@pytest.mark.parametrize("mean_span", [None, 256])
@pytest.mark.parametrize("policy", ["dense", "refuse"])
def test_lengths_outside_a_plans_range_are_neither_held_nor_failed(
    policy: str, mean_span: int | None, tiny_dir: Path, tmp_path: Path
) -> None:
    kit = kit_of(tiny_dir)
    config = ModelConfig.load(tiny_dir)
    # 256 tokens a head at any length; made for 600 to 900.
    plan = AttentionPlan.from_rules([[(256, 0.0)] * 2] * 2, min_length=600, max_length=900)
    plan.out_of_range = policy
    plan.save(tmp_path / "ranged.json")
    specs = [str(tmp_path / "ranged.json")]
    rules = Rules(ladder=(400, 600, 800, 1000), mean_span=mean_span)
    plans = parse_plans(specs, config)
    grid = Grid(samples=4)
    suite = EffectiveSuite(kit, grid, config, plans, rules, longest=2048, task_tokens=8192)
    items = [item for part in suite._items.values() for item in part]
    run = run_of(tiny_dir, [suite], tmp_path / "out", specs)
    go(run, Fakes(kit.tokenizer, key_of(items, kit)))
    data = results(tmp_path / "out", "effective-context")
    entry = data["effective"][-1]
    assert (entry["effective"], entry["longest_tried"]) == (800, 800)
    assert (entry["not_covered"], entry["reason"]) == ([400, 1000], None)
    mine = [row for row in data["rows"] if row["plan"] == entry["plan"]]
    assert [(row["length"], row["member"]) for row in mine] == [(600, "ranged"), (800, "ranged")]
    assert all(row["density"] < 1 for row in mine)
    assert "400, 1000" in (tmp_path / "out" / "results.md").read_text()


def test_a_plan_that_covers_no_length_has_no_effective_context(
    tiny_dir: Path, tmp_path: Path
) -> None:
    kit = kit_of(tiny_dir)
    config = ModelConfig.load(tiny_dir)
    path = tmp_path / "long.json"
    AttentionPlan.from_rules([[(0, 0.5)] * 2] * 2, min_length=1024, max_length=2048).save(path)
    plans = parse_plans([str(path)], config)
    rules = Rules(ladder=(400, 500))
    suite = EffectiveSuite(kit, Grid(samples=2), config, plans, rules, longest=600, task_tokens=99)
    fakes = Fakes(kit.tokenizer, lambda *_: ("", []))
    go(run_of(tiny_dir, [suite], tmp_path / "out", [str(path)]), fakes)
    (entry,) = results(tmp_path / "out", "effective-context")["effective"]
    assert (entry["effective"], entry["not_covered"]) == (None, [400, 500])
    assert "no length of the ladder" in entry["reason"]
    assert fakes.log == [], "the dense plan need not be measured for nobody"


def test_where_dense_fails_there_is_nothing_to_compare(tiny_dir: Path, tmp_path: Path) -> None:
    kit = kit_of(tiny_dir)
    config = ModelConfig.load(tiny_dir)
    rules = Rules(ladder=(400, 500))
    plans = parse_plans(["uniform:0.5"], config)
    suite = EffectiveSuite(kit, Grid(samples=4), config, plans, rules, longest=600, task_tokens=99)
    go(
        run_of(tiny_dir, [suite], tmp_path, ["uniform:0.5"]),
        Fakes(kit.tokenizer, lambda *_: ("", [])),
    )
    data = results(tmp_path, "effective-context")
    (entry,) = data["effective"]
    assert (entry["effective"], entry["longest_tried"], entry["of_uniform"]) == (None, None, None)
    assert entry["reason"].startswith("the dense model itself finds 0.000 at 400 tokens")
    assert data["rows"] == []
    assert entry["reason"] in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(mean_span=100), "mean span: got 100, want a multiple of 64"),
        (Rules(mean_span=64), "mean span: got 64"),
        (Rules(mean_span=8192), "no length of at most 2048"),
        (Rules(ladder=(400, 5000)), "ladder: got 5000, the model ends at 2048"),
    ],
)
def test_bad_ladders(rules: Rules, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ladder_of(rules, 2048)


def test_the_command_end_to_end(
    tiny_dir: Path, half_plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text(" ".join(SENTENCES) * 3)
    common = ["eval", str(tiny_dir), "--plans", half_plan, "dense", "uniform:0.5"]
    common += ["--suite", "passkey,kv:2,perplexity,divergence", "--lengths", "400,500"]
    common += ["--samples", "2", "--depths", "2", "--text", str(text), "--text-length", "300"]
    common += ["--prompts", str(text), "--prompt-tokens", "300", "--answer-tokens", "4"]
    common += ["--threads", "1"]
    for out in ("a", "b"):
        assert cli.main([*common, "--out", str(tmp_path / out)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "a" / "results.md")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names >= {"results.json", "results.md", "timings.jsonl", "passkey-depth.png"}
    for name in names - {"timings.jsonl"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    loaded = json.loads((tmp_path / "a" / "results.json").read_text())
    assert [plan["label"] for plan in loaded["plans"]] == ["dense", "ours", "uniform:0.5"]
    assert loaded["suites"]["passkey"]["rows"][0]["samples"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--suite", "nosuch"], 2, "--suite: got 'nosuch'"),
        (["--plans", "none.json"], 7, "none.json"),
        (["--suite", "passkey", "--lengths", "90"], 2, "passkey: length 90"),
        (["--suite", "passkey", "--lengths", "x"], 2, "--lengths: got 'x'"),
        (["--suite", "passkey", "--lengths", "99999"], 2, "at most 65536"),
        (["--suite", "longbench", "--longbench", "none"], 7, "none"),
        (
            ["--suite", "perplexity", "--lengths", "400"],
            2,
            "--lengths: got a value for passkey, lines, kv, needles, effective-context, want it",
        ),
        (["--suite", "kv:2", "--text-length", "300"], 2, "left out: --suite is kv:2"),
        (["--suite", "passkey,kv", "--mean-span", "64"], 2, "--mean-span: got a value for eff"),
        (["--suite", "passkey", "--reference", "other"], 2, "--reference: got 'other'"),
        (["--suite", "lines", "--facts", "-1"], 2, "--facts: got -1, want at least 0"),
        (["--suite", "kv", "--facts", "-1"], 2, "--facts: got -1, want at least 0"),
        (["--suite", "divergence", "--prompt-tokens", "0"], 2, "--prompt-tokens: got 0, want"),
        (["--suite", "needles:30"], 2, "facts: got 30, want at most 25"),
        (["--suite", "passkey", "--batch", "0"], 2, "--batch: got 0, want at least 1"),
        (["--suite", "passkey", "--time-limit", "-1"], 2, "--time-limit: got -1, want at least 0"),
        (["--suite", "passkey", "--time-limit", "nan"], 2, "--time-limit: got nan"),
        (["--suite", "effective-context", "--plans", "dense"], 2, "--plans: got none"),
        (["--suite", "passkey", "--plans", "auto:0.5"], 2, "no plan ships for the model"),
    ],
)
def test_bad_commands_write_nothing(
    arguments: list[str],
    status: int,
    message: str,
    tiny_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ["eval", str(tiny_dir), *arguments, "--samples", "1", "--out", str(out)]
    assert cli.main(command) == status
    assert message in capsys.readouterr().err.splitlines()[0]
    assert not out.exists()


def test_reference_check(tiny_dir: Path, tmp_path: Path) -> None:
    from moa_tools.evaluate.reference import check_reference

    suites: list[Suite] = [suite_of("passkey", kit_of(tiny_dir), (400,))]
    run = run_of(tiny_dir, suites, tmp_path)
    factory = engine_factory(tiny_dir, device="cpu", dtype="auto", batch=1, threads=1)
    text = check_reference("transformers", tiny_dir, run, factory)
    assert "same likeliest token 1.0000" in text
