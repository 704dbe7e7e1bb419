"""Whole evaluations with engines whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    DeviceError,
    MismatchError,
    ModelConfig,
    StateError,
)
from moa_rt import plans as shipped_plans
from moa_tools.evaluate import build
from moa_tools.evaluate.effective import EffectiveSuite, Rules
from moa_tools.evaluate.items import Grid
from moa_tools.evaluate.journal import NAME, Journal
from moa_tools.evaluate.perplexity import PerplexitySuite
from moa_tools.evaluate.plans import parse_plans
from moa_tools.evaluate.prompts import Kit
from moa_tools.evaluate.retrieval import GENERATORS
from moa_tools.evaluate.runner import evaluate
from moa_tools.evaluate.suite import Suite
from moa_tools.progress import Silent
from moa_tools.text import Document
from support_eval import (
    SENTENCES,
    FakeEngine,
    Fakes,
    Oracle,
    always_wrong,
    files,
    go,
    key_of,
    kit_of,
    run_of,
    suite_of,
)

LENGTHS = (600, 900)


@pytest.fixture(scope="module")
def kit(tiny_dir: Path) -> Kit:
    return kit_of(tiny_dir)


def results(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "results.json").read_text())
    return loaded


def key(kit: Kit, *names: str, **grid: Any) -> tuple[Oracle, list[Any]]:
    suites = [suite_of(name, kit, LENGTHS, **grid) for name in names]
    items = [item for suite in suites for part in suite.items.values() for item in part]
    return key_of(items, kit), suites


@pytest.mark.parametrize("teacher_forced", [False, True])
@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_answer_key_scores_one_and_wrong_answers_zero(
    name: str, teacher_forced: bool, kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    oracle, suites = key(kit, name, teacher_forced=teacher_forced)
    for which, want in ((oracle, 1.0), (always_wrong, 0.0)):
        out = tmp_path / str(want)
        go(run_of(tiny_dir, suites, out, ["uniform:0.5"]), Fakes(kit.tokenizer, which))
        rows = results(out)["suites"][name]["rows"]
        assert [(row["plan"], row["length"]) for row in rows] == [
            (plan, length) for plan in ("dense", "uniform:0.5") for length in LENGTHS
        ]
        for row in rows:
            assert row["score"] == want
            assert row["samples"] == 6
            assert all(entry["score"] == want for entry in row["by_depth"])
            assert row["relative"] == (1.0 if want else None)


def test_twice_gives_the_same_bytes(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    oracle, suites = key(kit, "passkey", "needles")
    for out in ("a", "b"):
        go(run_of(tiny_dir, suites, tmp_path / out, ["uniform:0.5"]), Fakes(kit.tokenizer, oracle))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert set(files(tmp_path / "a")) == {
        "needles-depth.png",
        "needles.png",
        "passkey-depth.png",
        "passkey.png",
        "results.json",
        "results.md",
    }


def half_right(kit: Kit, oracle: Oracle) -> Oracle:
    """Right for prompts of even sum, and for the dense plan."""

    def answer(plan: AttentionPlan, prompt: tuple[int, ...]) -> tuple[str, list[int]]:
        right = plan.density(900) == 1.0 or sum(prompt) % 2 == 0
        return (oracle if right else always_wrong)(plan, prompt)

    return answer


def test_interrupted_runs_resume_to_the_same_bytes(
    kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    oracle, suites = key(kit, "passkey", "kv", "needles")
    which = half_right(kit, oracle)
    plans = ["uniform:0.5", "uniform:0.25"]
    go(run_of(tiny_dir, suites, tmp_path / "whole", plans), Fakes(kit.tokenizer, which))
    whole = Fakes(kit.tokenizer, which)
    go(run_of(tiny_dir, suites, tmp_path / "count", plans), whole)
    calls = [entry for entry in whole.log if entry > 0]
    made = 0
    out = tmp_path / "parts"
    for _ in range(len(calls)):
        fakes = Fakes(kit.tokenizer, which, lives=7)
        try:
            go(run_of(tiny_dir, suites, out, plans), fakes)
        except KeyboardInterrupt:
            assert not (out / "results.json").exists()
        made += len([entry for entry in fakes.log if entry > 0])
        # Whatever a crash leaves of a line is dropped.
        with (out / NAME).open("ab") as file:
            file.write(b'{"records": [{"id"')
        if (out / "results.json").exists():
            break
    assert made == len(calls), "nothing was asked twice"
    assert files(out) == files(tmp_path / "whole")
    rows = results(out)["suites"]["passkey"]["rows"]
    assert {row["score"] for row in rows if row["plan"] != "dense"} - {0.0, 1.0}


def test_a_finished_run_asks_nothing_and_new_plans_only_their_own(
    kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    oracle, suites = key(kit, "passkey")
    go(run_of(tiny_dir, suites, tmp_path, []), Fakes(kit.tokenizer, oracle))
    before = files(tmp_path)
    again = Fakes(kit.tokenizer, oracle)
    go(run_of(tiny_dir, suites, tmp_path, []), again)
    assert again.log == []
    assert files(tmp_path) == before
    more = Fakes(kit.tokenizer, oracle)
    go(run_of(tiny_dir, suites, tmp_path, ["uniform:0.25"]), more)
    assert sum(entry for entry in more.log if entry > 0) == 12, "six questions at two lengths"
    fresh = tmp_path / "fresh"
    go(run_of(tiny_dir, suites, fresh, ["uniform:0.25"]), Fakes(kit.tokenizer, oracle))
    assert files(fresh) == files(tmp_path)


def test_other_settings_are_measured_anew(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    oracle, suites = key(kit, "passkey")
    go(run_of(tiny_dir, suites, tmp_path, []), Fakes(kit.tokenizer, oracle))
    other, other_suites = key(kit, "passkey", seed=9)
    fakes = Fakes(kit.tokenizer, other)
    go(run_of(tiny_dir, other_suites, tmp_path, []), fakes)
    assert sum(entry for entry in fakes.log if entry > 0) == 12


def test_a_time_limit_reports_what_is_done_and_goes_on(
    kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    oracle, suites = key(kit, "passkey")
    run = run_of(tiny_dir, suites, tmp_path, ["uniform:0.5"], time_limit=0.0)
    outcome = go(run, Fakes(kit.tokenizer, oracle))
    assert outcome.missing == ("passkey of dense", "passkey of uniform:0.5")
    loaded = results(tmp_path)
    assert loaded["complete"] is False
    assert loaded["suites"]["passkey"]["rows"] == []
    assert "Not complete" in (tmp_path / "results.md").read_text()
    go(run_of(tiny_dir, suites, tmp_path, ["uniform:0.5"]), Fakes(kit.tokenizer, oracle))
    assert results(tmp_path)["complete"] is True
    fresh = tmp_path / "fresh"
    go(run_of(tiny_dir, suites, fresh, ["uniform:0.5"]), Fakes(kit.tokenizer, oracle))
    assert files(fresh) == files(tmp_path)


def test_suites_whose_follow_up_is_not_done_are_named(
    kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    config = ModelConfig.load(tiny_dir)
    plans = parse_plans(["uniform:0.5"], config)
    rules = Rules(ladder=(600, 900))
    effective = EffectiveSuite(
        kit, Grid(samples=3), config, plans, rules, longest=900, task_tokens=1024
    )
    golds = [item for part in effective._items.values() for item in part]
    passkey = suite_of("passkey", kit, LENGTHS)
    golds += [item for part in passkey.items.values() for item in part]

    def outcome(*suites: Suite, limit: float | None = None) -> tuple[str, ...]:
        run = run_of(tiny_dir, suites, tmp_path, ["uniform:0.5"], time_limit=limit)
        return go(run, Fakes(kit.tokenizer, key_of(golds, kit))).missing

    known = ("passkey of dense", "passkey of uniform:0.5")
    assert outcome(passkey, effective, limit=0.0) == (*known, "effective-context")
    (entry,) = results(tmp_path)["suites"]["effective-context"]["effective"]
    assert (entry["effective"], entry["reason"]) == (None, "not measured yet")
    assert outcome(effective) == ()
    # What the journal has is reported, though something before it is missing.
    assert outcome(passkey, effective, limit=0.0) == known
    (entry,) = results(tmp_path)["suites"]["effective-context"]["effective"]
    assert entry["effective"] == 900
    assert outcome(passkey, effective) == ()


def test_one_engine_for_each_plan(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    oracle, suites = key(kit, "passkey", "kv")
    fakes = Fakes(kit.tokenizer, oracle)
    go(run_of(tiny_dir, suites, tmp_path, ["uniform:0.5"]), fakes)
    assert fakes.log.count(-1) == 2


def test_an_answer_that_failed_ends_the_run(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    _, suites = key(kit, "passkey")

    def broken(_: AttentionPlan, __: tuple[int, ...]) -> tuple[str, list[int]]:
        raise StateError("lost")

    with pytest.raises(StateError, match="lost"):
        go(run_of(tiny_dir, suites, tmp_path / "x", []), Fakes(kit.tokenizer, broken))
    assert not (tmp_path / "x" / "results.json").exists()


def test_another_models_directory_is_refused(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    oracle, suites = key(kit, "passkey")
    go(run_of(tiny_dir, suites, tmp_path, []), Fakes(kit.tokenizer, oracle))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(MismatchError, match="another evaluation: device: got cpu, want cuda"):
        go(run_of(tiny_dir, suites, tmp_path, [], device="cuda"), Fakes(kit.tokenizer, oracle))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_start_that_fails_leaves_nothing(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    oracle, suites = key(kit, "passkey")
    out = tmp_path / "some" / "where"

    def no_device(_: AttentionPlan, __: int) -> FakeEngine:
        raise DeviceError("cuda: not built in")

    for _ in range(2):
        with pytest.raises(DeviceError):
            evaluate(run_of(tiny_dir, suites, out, device="cuda"), no_device, Silent())
        assert list(tmp_path.iterdir()) == []
    go(run_of(tiny_dir, suites, out), Fakes(kit.tokenizer, oracle))
    assert results(out)["complete"] is True


def test_a_journal_without_records_binds_nobody(tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / NAME).write_text('{"identity": {"device": "cuda"}}\n')
    journal = Journal(place, {"device": "cpu"})
    assert journal.add("scope", "task", [{"score": 1.0}]) == [{"score": 1.0}]
    journal.close()
    lines = (place / NAME).read_text().splitlines()
    assert json.loads(lines[0]) == {"identity": {"device": "cpu"}}
    assert len(lines) == 2
    with pytest.raises(MismatchError, match="device: got cpu, want cuda"):
        Journal(place, {"device": "cuda"})
    Journal(place, {"device": "cpu"}).close()
    assert len((place / NAME).read_text().splitlines()) == 2, "one with records stays"


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    first = Journal(tmp_path, {"a": 1})
    with pytest.raises(StateError, match="locked"):
        Journal(tmp_path, {"a": 1})
    first.close()
    Journal(tmp_path, {"a": 1}).close()


def test_too_long_for_the_model_and_plans_that_refuse(
    kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    config = ModelConfig.load(tiny_dir)
    plan = AttentionPlan.from_rules([[(0, 0.5)] * 2] * 2, min_length=1024, max_length=2048)
    plan.out_of_range = "refuse"
    plan.save(tmp_path / "narrow.json")
    suites = [suite_of("passkey", kit, (600,))]
    run = run_of(tiny_dir, suites, tmp_path / "out", [str(tmp_path / "narrow.json")])
    with pytest.raises(MismatchError, match="plan narrow: length 600"):
        go(run, Fakes(kit.tokenizer, always_wrong))
    too_long = PerplexitySuite(
        kit.tokenizer, [Document("x", "word " * 80000)], config.max_position_embeddings + 64, 1
    )
    with pytest.raises(ArgumentError, match="perplexity: length: got 65600 tokens, want at most"):
        go(run_of(tiny_dir, [too_long], tmp_path / "out"), Fakes(kit.tokenizer, always_wrong))
    assert not (tmp_path / "out").exists()


def test_E4_plan_of_another_model(tiny_dir: Path, smollm2_dir: Path, tmp_path: Path) -> None:
    config, other = ModelConfig.load(tiny_dir), ModelConfig.load(smollm2_dir)
    plan = AttentionPlan.uniform(other, 0.5)
    plan.fingerprint = other.fingerprint
    plan.save(tmp_path / "plan.json")
    with pytest.raises(MismatchError):
        parse_plans([str(tmp_path / "plan.json")], config)


def test_what_is_written_into_a_plan_about_it_does_not_make_it_another(
    tiny_dir: Path, tmp_path: Path
) -> None:
    config = ModelConfig.load(tiny_dir)

    def digest(alpha: int = 64, **changed: Any) -> str:
        plan = AttentionPlan.from_rules([[(alpha, 0.25)] * 2] * 2, max_length=2048)
        for name, value in changed.items():
            setattr(plan, name, value)
        plan.save(tmp_path / "plan.json")
        return parse_plans([str(tmp_path / "plan.json")], config)[1].digest

    assert digest(quality={"passkey@2048": 0.5}) == digest()
    assert digest(provenance={"density": "0.5"}, model_name="x") == digest()
    assert digest(alpha=128) != digest()
    assert digest(out_of_range="refuse") != digest()


def test_auto_is_the_plan_that_ships_for_the_model(smollm2_dir: Path) -> None:
    config = ModelConfig.load(smollm2_dir)
    _, half, quarter = parse_plans(["auto:0.50", "auto:0.25"], config)
    assert (half.label, half.kind, quarter.label) == ("auto:0.5", "file", "auto:0.25")
    assert half.plan.rules == shipped_plans.find(config, 0.5).rules
    assert quarter.plan.rules == shipped_plans.find(config, 0.25).rules
    with pytest.raises(ArgumentError, match=r"density: got 0\.3, the shipped plans of"):
        parse_plans(["auto:0.3"], config)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["auto:x"], "want auto:DENSITY"),
        (["auto:0.5"], "no plan ships for the model"),
        (["uniform:x"], "want uniform:DENSITY"),
        (["uniform:0"], "density"),
        (["uniform:0.5", "uniform:0.50"], "twice"),
        (["none.json"], "none.json"),
        (["=none.json"], "none.json"),
    ],
)
def test_bad_plans(specs: list[str], message: str, tiny_dir: Path) -> None:
    with pytest.raises((ArgumentError, OSError), match=message):
        parse_plans(specs, ModelConfig.load(tiny_dir))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (build.Request(("nosuch",)), "--suite: got 'nosuch', want one of passkey"),
        (build.Request(("passkey:x",)), "want SUITE or SUITE:FACTS"),
        (build.Request(("perplexity:3",)), "want SUITE or SUITE:FACTS"),
        (build.Request(("passkey", "passkey:1")), "got 'passkey' twice"),
        (build.Request(()), "--suite: got none"),
        (build.Request(("passkey",), lengths=()), "--lengths"),
        (build.Request(("passkey",), grid=Grid(samples=0)), "--samples: got 0"),
        (build.Request(("longbench",)), "--longbench: got nothing"),
        (build.Request(("perplexity",), texts=(Path("none.txt"),)), "none.txt"),
        (build.Request(("effective-context",), lengths=(300,)), "no length of at most 300"),
        (build.Request(("effective-context",)), "effective-context: --plans: got none"),
        (build.Request(("kv",), grid=Grid(facts=-1)), "--facts: got -1, want at least 0"),
    ],
)
def test_bad_requests(request_: build.Request, message: str, tiny_dir: Path) -> None:
    config = ModelConfig.load(tiny_dir)
    plans = parse_plans([], config)
    with pytest.raises((ArgumentError, OSError), match=message):
        build.build_suites(request_, config, kit_of(tiny_dir).tokenizer, plans)


def test_perplexity_from_known_losses(kit: Kit, tiny_dir: Path, tmp_path: Path) -> None:
    text = Document("x", " ".join(SENTENCES) * 8)
    suite = PerplexitySuite(kit.tokenizer, [text], 257, 3)
    go(run_of(tiny_dir, [suite], tmp_path, ["uniform:0.5"]), Fakes(kit.tokenizer, always_wrong))
    rows = results(tmp_path)["suites"]["perplexity"]["rows"]
    assert rows[0]["perplexity"] == pytest.approx(np.e, abs=1e-5)
    ids = suite.texts
    losses = np.concatenate([1.0 + (text_ids[1:] % 2 == 1) for text_ids in ids])
    assert rows[1]["perplexity"] == pytest.approx(np.exp(losses.mean()), abs=1e-5)
    assert rows[1]["ratio"] == pytest.approx(np.exp(losses.mean() - 1), abs=1e-5)
    assert [(b["start"], b["end"]) for b in rows[0]["buckets"]] == [
        (1 + 32 * i, 33 + 32 * i) for i in range(8)
    ]
    third = np.concatenate([1.0 + (text_ids[65:97] % 2 == 1) for text_ids in ids])
    assert rows[1]["buckets"][2]["perplexity"] == pytest.approx(np.exp(third.mean()), abs=1e-5)


def test_the_overview_holds_dense_figures_and_shares(
    kit: Kit, tiny_dir: Path, tmp_path: Path
) -> None:
    oracle, suites = key(kit, "passkey")
    text = Document("x", " ".join(SENTENCES) * 8)
    both = [*suites, PerplexitySuite(kit.tokenizer, [text], 257, 3)]
    which = half_right(kit, oracle)
    go(run_of(tiny_dir, both, tmp_path, ["uniform:0.5"]), Fakes(kit.tokenizer, which))
    glance = (tmp_path / "results.md").read_text().split("## At a glance")[1].split("##")[0]
    header, _, dense, uniform = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in glance.splitlines()
        if line.startswith("|")
    )
    assert header == ["plan", "density", "passkey 600", "passkey 900", "perplexity 257"]
    data = results(tmp_path)["suites"]
    assert dense == ["dense", "1.000", "1.000", "1.000", "2.718"]
    shares = [row["relative"] for row in data["passkey"]["rows"][2:]]
    shares.append(data["perplexity"]["rows"][1]["ratio"])
    assert uniform[2:] == [f"{share:.3f}" for share in shares]
    assert 0 < shares[0] < 1 < shares[2]
