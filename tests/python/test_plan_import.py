"""Published plans (a rule per query head) as plans of ours (a rule per KV head)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moa_rt import AttentionPlan, FormatError, MismatchError, ModelConfig, SpanRule
from moa_tools.cli import main
from moa_tools.plan.reference_import import (
    DEFAULT_MAX_LENGTH,
    DEFAULT_MIN_LENGTH,
    ReferencePlan,
    dominating_rule,
    expanded_plan,
    group_maximum,
    import_plan,
    parse_reference,
)
from support_models import make_tiny_model

# The plan that thu-nics/MoA publishes for meta-llama/Llama-3.2-1B-Instruct, one letter per query
# head: the numbers are that file's, the letters ours.
LETTERS = {
    "a": (-1024.0, 0.75),
    "b": (-1024.0, 0.875),
    "c": (0.0, 0.125),
    "d": (0.0, 0.25),
    "e": (0.0, 0.5),
    "f": (0.0, 0.875),
    "g": (1024.0, 0.625),
    "h": (1024.0, 0.875),
    "i": (2048.0, 0.0),
    "j": (2048.0, 0.5),
    "k": (8192.0, 0.0),
}
LLAMA_1B = """
eeeebbbeeeeeebebeeebbbbbeeeebeee
ccaccccccaacacaccccccacacaccaaca
cccccbbbccccccbbcbcbbccbbccccccc
bbccccccccccbbbccccbbbbbbbcbcbbc
bbbbcbbcbcbbcccbbccbbbcbccbcbbcc
giiiigigigigiiiiigigigiiiiigiiii
aaaafaaafffffaaafaaaaaaaffffaaff
aaffaffaaffaffffaaaffffaffffffaa
hhhhhhhhcccchhhhchhhhhchhhchhchh
fffffdfddddddddfdddddffffddfdddd
kkccccccckkkkkkkcccckckkkkkccckc
ccccffffccfcfffcccfcfcffcfcfcccc
fcfcccccccccffffccfccccccfcfcfcf
gggccgccccgccggcccccggcccccccccg
ccjjcccccjcjjcjjccccjjjcccccjjjj
ccccgccgccccggccggccgggccccccggg
"""


def llama_1b() -> bytes:
    rows = LLAMA_1B.split()
    return json.dumps(
        {
            "alphas": [[LETTERS[c][0] for c in row] for row in rows],
            "betas": [[LETTERS[c][1] for c in row] for row in rows],
        }
    ).encode()


def raw(rule: SpanRule, n: int) -> float:
    return rule.alpha + rule.beta * n


def random_rule(rng: random.Random) -> SpanRule:
    return SpanRule(rng.randrange(-2048, 8193, 256), rng.randrange(0, 9) / 8)


def test_dominating_rule_covers_every_length_and_is_least_at_the_ends() -> None:
    rng = random.Random(0)
    crossings = 0
    for _ in range(400):
        rules = [random_rule(rng) for _ in range(rng.randint(1, 4))]
        low = rng.randrange(64, 4096)
        high = low + rng.randrange(0, 12000)
        got = dominating_rule(rules, low, high)
        for n in {low, high, *(rng.randint(low, high) for _ in range(40))}:
            assert raw(got, n) >= max(raw(rule, n) for rule in rules)
        # alpha is a whole number of tokens, so the chord may lie one token too high.
        for n in (low, high):
            assert raw(got, n) < max(raw(rule, n) for rule in rules) + 1.001
        crossings += got not in rules
    assert crossings > 50


def test_dominating_rule_prefers_a_member() -> None:
    rules = [SpanRule(1024, 0.0), SpanRule(0, 0.5), SpanRule(-1024, 0.5)]
    assert dominating_rule(rules, 2048, 16384) == SpanRule(0, 0.5)
    assert dominating_rule(rules[:1], 2048, 16384) == SpanRule(1024, 0.0)


def test_dominating_rule_where_two_cross() -> None:
    """1024 and N/8 cross at 8192; the chord from (2048, 1024) to (16384, 2048) is N/14 + 877.7."""
    got = dominating_rule([SpanRule(1024, 0.0), SpanRule(0, 0.125)], 2048, 16384)
    assert got.alpha == 878
    assert got.beta == pytest.approx(1 / 14, abs=1e-9)


def test_groups_are_neighbouring_query_heads() -> None:
    """Query head h reads KV head h // group; the maximum is taken over those."""
    rules = tuple(SpanRule(64 * h, 0.0) for h in range(8))
    got = group_maximum(ReferencePlan((rules,)), 2, 2048, 16384)
    assert [rule.alpha for rule in got[0]] == [3 * 64, 7 * 64]


def test_spans_cover_every_query_head_of_the_published_plan() -> None:
    published = parse_reference(llama_1b(), "1b.json")
    plan = import_plan(published, 8, DEFAULT_MIN_LENGTH, DEFAULT_MAX_LENGTH)
    members = expanded_plan(published, DEFAULT_MIN_LENGTH, DEFAULT_MAX_LENGTH)
    for n in (2048, 3000, 4096, 8192, 12345, 16384):
        ours, theirs = plan.spans(n), members.spans(n)
        for layer in range(16):
            for head in range(32):
                assert ours[layer][head // 4].span >= theirs[layer][head].span


def test_cost_of_the_published_plan() -> None:
    """Of the dense GQA cache at 8k: 1.93 expanded to query heads, 0.66 per KV head."""
    published = parse_reference(llama_1b(), "1b.json")
    plan = import_plan(published, 8, DEFAULT_MIN_LENGTH, DEFAULT_MAX_LENGTH)
    members = expanded_plan(published, DEFAULT_MIN_LENGTH, DEFAULT_MAX_LENGTH)
    assert members.density(8192) * 4 == pytest.approx(1.935, abs=0.01)
    assert plan.density(8192) == pytest.approx(0.66, abs=0.005)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(
        tmp_path_factory.mktemp("plan") / "hf", "llama", tokenizer=False, num_attention_heads=8
    )


def tiny_plan(layers: int = 2, heads: int = 8) -> dict[str, Any]:
    return {
        "alphas": [[-1024.0, 0.0, 1024.0, 0.0] * (heads // 4)] * layers,
        "betas": [[1.0, 0.5, 0.0, 0.125] * (heads // 4)] * layers,
    }


def test_import_command(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "moa.json", tmp_path / "plan.json"
    source.write_text(json.dumps(tiny_plan()))
    arguments = ["plan", "import", str(source), "--model", str(model_dir), "-o", str(out)]
    assert main([*arguments, "--length", "4096"]) == 0
    row = capsys.readouterr().out.splitlines()[3].split()
    # Query heads keep 3072, 2048, 1024, 512, twice, in 2 layers; 256 bytes a token.
    assert row[:2] == ["4096", str((3072 + 2048 + 1024 + 512) * 2 * 2 * 256)]
    assert row[3] == str(4096 * 2 * 2 * 256)
    plan = AttentionPlan.load(str(out))
    config = ModelConfig.load(str(model_dir))
    plan.check_model(config)
    assert (plan.min_length, plan.max_length) == (2048, 16384)
    assert row[2] == str(plan.cache_bytes(4096, "bfloat16", config))
    assert plan.provenance["source"] == "thu-nics/MoA plan file moa.json"
    before = out.read_bytes()
    assert main(arguments) == 0
    assert out.read_bytes() == before


def test_import_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "moa.json", tmp_path / "plan.json"
    source.write_text(json.dumps(tiny_plan()))
    assert main(["plan", "import", str(source), "--kv-heads", "4", "-o", str(out)]) == 0
    assert "slots (tokens x heads)" in capsys.readouterr().out
    assert AttentionPlan.load(str(out)).num_kv_heads == 4
    assert main(["plan", "import", str(source), "-o", str(out)]) == 2
    assert "want either --model or --kv-heads" in capsys.readouterr().err
    both = ["--kv-heads", "4", "--model", str(tmp_path)]
    assert main(["plan", "import", str(source), *both, "-o", str(out)]) == 2


def test_show_and_diff(tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig.load(str(model_dir))
    half, dense = AttentionPlan.uniform(config, 0.5), AttentionPlan.dense(config)
    half.quality = {"passkey@4096": 0.75}
    half.save(str(tmp_path / "half.json"))
    dense.save(str(tmp_path / "dense.json"))
    show = ["plan", "show", str(tmp_path / "half.json"), "--length", "4096"]
    assert main([*show, "--model", str(model_dir)]) == 0
    text = capsys.readouterr().out
    assert "quality passkey@4096: 0.75" in text
    assert "0 + 0.5 N" in text
    assert ["4096", "0.5000", str(4 * 2048 * 256)] in [line.split() for line in text.splitlines()]
    assert main(show) == 0
    assert "KV bytes" not in capsys.readouterr().out
    same = [str(tmp_path / "half.json")] * 2
    assert main(["plan", "diff", *same]) == 0
    assert main(["plan", "diff", same[0], str(tmp_path / "dense.json")]) == 1
    text = capsys.readouterr().out
    assert "4 of 4 rules differ" in text
    assert "quality passkey@4096: 0.75 | -" in text


def refused(document: Any, error: type[Exception], words: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(error, match=words) as caught:
        parse_reference(text.encode(), "bad.json")
    assert "bad.json" in str(caught.value)


def change(edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(json.dumps(tiny_plan()))
    edit(plan)
    return plan


def test_E1_our_reader_points_to_the_import(tmp_path: Path) -> None:
    (tmp_path / "moa.json").write_text(json.dumps(tiny_plan()))
    with pytest.raises(FormatError):
        AttentionPlan.load(str(tmp_path / "moa.json"))


def test_E2_shapes() -> None:
    refused(
        change(lambda p: p["alphas"][1].pop()), MismatchError, r"alphas\[1\]: got 7 heads, want 8"
    )
    refused(change(lambda p: p["betas"].pop()), MismatchError, "alphas are 2x8, betas 1x8")
    refused(change(lambda p: p.update(alphas=[])), FormatError, "alphas: want a list of layers")
    refused(change(lambda p: p.update(betas=[[], []])), FormatError, r"betas\[0\]: want a list of")
    refused(change(lambda p: p.update(betas=[3])), FormatError, r"betas\[0\]: want a list of heads")


def test_E2_other_model(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "moa.json"
    source.write_text(json.dumps(tiny_plan(layers=3)))
    arguments = ["plan", "import", str(source), "--model", str(model_dir), "-o", "x.json"]
    assert main(arguments) == 5
    assert "plan 3x8 vs model 2x8 (layers x query heads)" in capsys.readouterr().err


def test_E3_groups_that_do_not_divide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "moa.json"
    source.write_text(json.dumps(tiny_plan()))
    assert main(["plan", "import", str(source), "--kv-heads", "3", "-o", "x.json"]) == 5
    assert "not a multiple of 3 KV heads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alphas", "NaN"),
        ("alphas", "Infinity"),
        ("alphas", "1e308"),
        ("alphas", "1e400"),
        ("alphas", "2097153"),
        ("alphas", "-0.0"),
        ("alphas", "null"),
        ("alphas", "true"),
        ("alphas", '"64"'),
        ("betas", "-0.125"),
        ("betas", "1.0001"),
        ("betas", "-0.0"),
        ("betas", "[1]"),
    ],
)
def test_E5_numbers(name: str, value: str) -> None:
    text = json.dumps(change(lambda p: p[name][1].__setitem__(2, 777777)))
    refused(text.replace("777777", value), FormatError, "want a (JSON )?number")


def test_E6_span_below_one_in_the_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "moa.json"
    plan = {"alphas": [[-1024.0]], "betas": [[0.5]]}
    source.write_text(json.dumps(plan))
    arguments = ["plan", "import", str(source), "--kv-heads", "1", "-o", str(tmp_path / "x")]
    assert main([*arguments, "--min-len", "2048"]) == 3
    assert "2048" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main([*arguments, "--min-len", "2112"]) == 0
    assert main([*arguments, "--min-len", "4096", "--max-len", "2048"]) == 2


def test_E11_keys() -> None:
    refused(
        change(lambda p: p.update(extra=1)), FormatError, "want the keys alphas and betas alone"
    )
    refused('{"alphas": [[1]], "alphas": [[1]], "betas": [[1]]}', FormatError, "duplicate key")
    refused("[]", FormatError, "want the keys alphas and betas")


def test_E14_limits() -> None:
    refused(" " * (16 << 20) + "{}", FormatError, "want at most 16777216")
    refused("[" * 100_000, FormatError, "nested too deep")
