"""LongBench and LV-Eval on small files of the published shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from moa_rt import ArgumentError, AttentionPlan, FormatError, IoError
from moa_tools.evaluate.longbench import suites
from moa_tools.evaluate.longbench.data import Entry, load_directory
from moa_tools.evaluate.longbench.scorers import Case
from moa_tools.evaluate.longbench.suites import BenchmarkSuite, Settings, fill, truncate_middle
from moa_tools.evaluate.longbench.tasks import LONGBENCH, LVEVAL
from support_eval import GOLDEN, Fakes, always_wrong, files, go, kit_of, run_of

CONTEXT = " ".join(f"Sentence number {i} of a long report." for i in range(60))


def line(**fields: Any) -> dict[str, Any]:
    return {
        "input": "Who wrote it?",
        "context": CONTEXT,
        "answers": ["Ada Lovelace", "Lovelace"],
        "length": 3000,
        "dataset": "qasper",
        "language": "en",
        "all_classes": None,
        "_id": "0",
        **fields,
    }


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines))
    return path


@pytest.fixture
def longbench(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    write(place / "qasper_e.jsonl", *(line(length=n) for n in (100, 3999, 4000, 7999, 8000, 90000)))
    write(
        place / "trec_e.jsonl",
        line(input="Question: q\nType:", answers=["City"], all_classes=["City", "Date"]),
    )
    write(place / "passage_count.jsonl", line(answers=["7"], input=""))
    write(place / "samsum.jsonl", line(answers=["They meet."]))
    return place


def make(name: str, place: Path, model: Path, **settings: Any) -> BenchmarkSuite:
    known = {"context": 400, name: place, **settings}
    return suites.make(name, Settings(**known), kit_of(model).tokenizer, 800)


def answering(suite: BenchmarkSuite) -> Any:
    """The engine with the answer key; prompts may be equal, the answers then are too."""
    keys = {
        tuple(map(int, item.prompt_ids)): item.entry.answers[0]
        for items in suite._items.values()
        for item in items
    }

    def answer(_: AttentionPlan, prompt: tuple[int, ...]) -> tuple[str, list[int]]:
        text = keys[prompt]
        return ("\n" if "City" in text else "") + text + ("\nmore" if "City" in text else ""), []

    return answer


def rows(out: Path, name: str) -> dict[tuple[str, str, str], float]:
    data = json.loads((out / "results.json").read_text())["suites"][name]
    return {(row["plan"], row["file"], row["bucket"]): row["score"] for row in data["rows"]}


def test_longbench_runs_and_reports_by_length(
    longbench: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    suite = make("longbench", longbench, tiny_dir)
    fakes = Fakes(kit_of(tiny_dir).tokenizer, answering(suite))
    go(run_of(tiny_dir, [suite], tmp_path / "a", ["uniform:0.5"]), fakes)
    got = rows(tmp_path / "a", "longbench")
    assert {key[1:] for key in got} == {
        ("qasper_e", "0-4k"),
        ("qasper_e", "4-8k"),
        ("qasper_e", "8k+"),
        ("trec_e", "0-4k"),
        ("passage_count", "all"),
        ("samsum", "all"),
    }
    assert set(got.values()) == {1.0}
    data = json.loads((tmp_path / "a" / "results.json").read_text())["suites"]["longbench"]
    assert [entry["score"] for entry in data["averages"]] == [1.0, 1.0]
    assert {r["samples"] for r in data["rows"] if r["file"] == "qasper_e"} == {2}
    go(run_of(tiny_dir, [suite], tmp_path / "b", ["uniform:0.5"]), fakes)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    wrong = Fakes(kit_of(tiny_dir).tokenizer, always_wrong)
    go(run_of(tiny_dir, [suite], tmp_path / "c"), wrong)
    assert set(rows(tmp_path / "c", "longbench").values()) == {0.0}


def test_lveval_runs(tiny_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "data"
    fields = {"answer_keywords": "Lovelace", "confusing_facts": ["x"], "dataset": "y"}
    write(place / "hotpotwikiqa_mixup_16k.jsonl", line(**fields, answers=["Ada Lovelace"]))
    write(place / "factrecall_en_32k.jsonl", line(answers=["Ada"], input="Who?"))
    write(place / "cmrc_mixup_16k.jsonl", line(answers=["北京市"], context="北京市很大。" * 50))
    suite = make("lveval", place, tiny_dir)
    fakes = Fakes(kit_of(tiny_dir).tokenizer, answering(suite))
    go(run_of(tiny_dir, [suite], tmp_path / "a"), fakes)
    assert rows(tmp_path / "a", "lveval") == {
        ("dense", "hotpotwikiqa_mixup_16k", "all"): 1.0,
        ("dense", "factrecall_en_32k", "all"): 1.0,
        ("dense", "cmrc_mixup_16k", "all"): 1.0,
    }


@pytest.mark.parametrize("family", ["llama2", "qwen2"])
def test_prompts_are_cut_in_the_middle_before_the_template(family: str, longbench: Path) -> None:
    kit = kit_of(GOLDEN / family)
    suite = suites.make(
        "longbench", Settings(longbench=longbench, context=300), kit.tokenizer, 1000
    )
    frame = len(kit.frame.before) + len(kit.frame.after)
    item = suite._items["qasper_e"][0]
    assert len(item.prompt_ids) == 300 + frame
    text = kit.tokenizer.decode(item.prompt_ids.tolist())
    assert "Read the text" in text
    assert "Who wrote it?" in text
    assert "Sentence number 30 " not in text
    assert len(suite._items["samsum"][0].prompt_ids) == 300, "few-shot examples need no template"
    assert suite.longest == 300 + frame + 128


def test_truncation_and_filling() -> None:
    assert truncate_middle(range(10), 10) == list(range(10))
    assert truncate_middle(range(10), 4) == [0, 1, 8, 9]
    assert truncate_middle(range(10), 5) == [0, 1, 7, 8, 9]
    entry = Entry("a {input} {x}", "q {context}", ("g",), 1, Case())
    assert fill("{context} / {input}", entry) == "a {input} {x} / q {context}"


def test_the_users_prompts_and_lengths(longbench: Path, tiny_dir: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "dataset2prompt.json"
    prompts.write_text(json.dumps({"qasper": "Mine: {context} Q: {input}", "other": "{context}"}))
    lengths = tmp_path / "dataset2maxlen.json"
    lengths.write_text(json.dumps({"qasper": 9}))
    ours = make("longbench", longbench, tiny_dir)
    suite = make("longbench", longbench, tiny_dir, prompts=prompts, answer_lengths=lengths)
    assert suite._items["qasper_e"][0].dataset.answer_tokens == 9
    assert suite._items["qasper_e"][0].dataset.prompt.startswith("Mine")
    assert suite.identity() != ours.identity()
    for name, text, message in (
        ("a", '{"qasper": 5}', "want str"),
        ("b", '{"qasper": "no place"}', "want a prompt with"),
        ("c", "[]", "want an object"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(FormatError, match=message):
            make("longbench", longbench, tiny_dir, prompts=tmp_path / name)
    lengths.write_text('{"qasper": 0}')
    with pytest.raises(FormatError, match="want 1 to 4096 tokens"):
        make("longbench", longbench, tiny_dir, answer_lengths=lengths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"input": "q"}', 'line 1: field "answers": missing'),
        (json.dumps(line(context=None)), 'field "context": got NoneType, want str'),
        (json.dumps(line(answers="x")), 'field "answers": got str, want list'),
        (json.dumps(line(answers=[1])), 'field "answers": got'),
        (json.dumps(line(answers=[])), "want at least one"),
        (json.dumps(line(length="5")), 'field "length": got str, want int'),
        (json.dumps(line(length=True)), 'field "length": got bool, want int'),
        (json.dumps(line(all_classes=[3])), 'field "all_classes"'),
        (json.dumps(line(answer_keywords=3)), 'field "answer_keywords"'),
        (json.dumps(line()) + "\n{", "line 2"),
        ("[1]", "line 1: got list, want an object"),
        ("\n\n", "got no line"),
        (b"\xff", "line 1"),
    ],
)
def test_bad_files_name_line_and_field(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "qasper.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FormatError, match=message):
        load_directory(tmp_path, LONGBENCH, None)


def test_unknown_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="none: open"):
        load_directory(tmp_path / "none", LONGBENCH, None)
    with pytest.raises(ArgumentError, match=r"no \*\.jsonl file"):
        load_directory(tmp_path, LONGBENCH, None)
    write(tmp_path / "nosuch_e.jsonl", line())
    with pytest.raises(ArgumentError, match="dataset: got 'nosuch', want one of"):
        load_directory(tmp_path, LONGBENCH, None)
    with pytest.raises(ArgumentError, match="dataset: got 'qasper'"):
        load_directory(write(tmp_path / "qasper.jsonl", line()), LVEVAL, None)


def test_limit(longbench: Path) -> None:
    loaded = {file.name: file for file in load_directory(longbench, LONGBENCH, 2)}
    assert len(loaded["qasper_e"].entries) == 2
    assert loaded["qasper_e"].by_length
    assert not loaded["samsum"].by_length
    assert loaded["qasper_e"].dataset == "qasper"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"context": 10}, "--context: got 10"), ({"limit": 0}, "--limit: got 0")],
)
def test_bad_settings(
    settings: dict[str, int], message: str, longbench: Path, tiny_dir: Path
) -> None:
    with pytest.raises(ArgumentError, match=message):
        make("longbench", longbench, tiny_dir, **settings)
