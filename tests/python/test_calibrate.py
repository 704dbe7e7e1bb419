"""`moa-tools calibrate`: what is asked, what is kept, the same bytes however often it stops."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import string
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from moa_rt import (
    ArgumentError,
    Engine,
    FormatError,
    IoError,
    ModelConfig,
    ResourceError,
    StateError,
    Tokenizer,
)
from moa_tools.calibrate import answers
from moa_tools.calibrate.build import calibrate
from moa_tools.calibrate.exercises import RECALL_TASKS, TASKS, Context, make_draft
from moa_tools.calibrate.forms import Form, forms_of
from moa_tools.calibrate.journal import JOURNAL, Journal
from moa_tools.calibrate.material import material_of
from moa_tools.calibrate.samples import MANIFEST, SAMPLES, SPLITS, Split, load_samples
from moa_tools.calibrate.words import Words, draw_fields, words_of
from moa_tools.cli import main
from moa_tools.progress import Silent
from moa_tools.text import Document
from support_calibrate import small_options, small_set


class _Interrupting(Silent):
    """Ctrl-C after so many answers."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def advance(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def small(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("calibration") / "set"
    small_set(tiny_dir, place)
    return place


def _config(model: Path) -> ModelConfig:
    return ModelConfig.load(str(model))


def test_every_split_length_and_task_is_there(tiny_dir: Path, small: Path) -> None:
    found = load_samples(small, config=_config(tiny_dir))
    got = {(s.split, s.length, s.task): 0 for s in found.samples}
    for sample in found.samples:
        got[sample.split, sample.length, sample.task] += 1
    want = {("profile", 640, task): 2 for task in TASKS}
    want |= {("validate", 768, task): 1 for task in TASKS}
    want |= {("heldout", 640, task): 1 for task in TASKS}
    assert got == want


def test_prompts_fill_their_length(small: Path) -> None:
    for sample in load_samples(small, config=None).samples:
        room = {"text": len(sample.answer_ids), "summary": 16}.get(sample.task, 8)
        total = len(sample.prompt_ids) + room
        assert sample.length - 8 <= total <= sample.length, sample.id
        assert len(sample.answer_ids) <= room


def test_answers_are_the_dense_models_own(tiny_dir: Path, small: Path) -> None:
    samples = [s for s in load_samples(small, config=None).samples if s.task == "facts"]
    with Engine(tiny_dir, num_threads=1, max_batch=1) as engine:
        for sample in samples:
            count = len(sample.answer_ids)
            said = engine.generate(list(sample.prompt_ids), max_new_tokens=8).token_ids
            assert said[:count] == list(sample.answer_ids)


def test_same_seed_same_bytes_other_seed_other_bytes(
    tiny_dir: Path, small: Path, tmp_path: Path
) -> None:
    small_set(tiny_dir, tmp_path / "again")
    small_set(tiny_dir, tmp_path / "other", seed=1)
    for name in (SAMPLES, MANIFEST):
        assert (small / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert (small / SAMPLES).read_bytes() != (tmp_path / "other" / SAMPLES).read_bytes()
    assert sorted(p.name for p in small.iterdir()) == [MANIFEST, SAMPLES]


# Of profiling, 10 prompts are asked in batches of 3, 3, 3 and 1; then come those of validation.
@pytest.mark.parametrize(("after", "batches"), [(0, 0), (4, 1), (13, 5)])
def test_interrupted_run_goes_on_to_the_same_bytes(
    tiny_dir: Path, small: Path, tmp_path: Path, after: int, batches: int
) -> None:
    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        calibrate(tiny_dir, out, small_options(), _Interrupting(after))
    assert [p.name for p in out.iterdir()] == [JOURNAL]
    lines = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + batches
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"profile-640-quote-0001":[1,2')  # killed while it wrote
    reporter = Silent()
    calibrate(tiny_dir, out, small_options(), reporter)
    assert bool(reporter.infos) == (batches > 0)
    assert (out / SAMPLES).read_bytes() == (small / SAMPLES).read_bytes()
    assert (out / MANIFEST).read_bytes() == (small / MANIFEST).read_bytes()


def test_finished_set_is_returned_and_another_is_not_overwritten(
    tiny_dir: Path, small: Path
) -> None:
    before = (small / SAMPLES).stat().st_mtime_ns
    again = calibrate(tiny_dir, small, small_options(), _Interrupting(0))
    assert again.samples == load_samples(small, config=None).samples
    with pytest.raises(ArgumentError, match="other options or text; --overwrite"):
        calibrate(tiny_dir, small, small_options(seed=5), Silent())
    assert (small / SAMPLES).stat().st_mtime_ns == before


def test_two_runs_of_one_directory(tiny_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    out.mkdir()
    with Journal(out / JOURNAL, "x"), pytest.raises(StateError, match="another run"):
        calibrate(tiny_dir, out, small_options(), Silent())


def test_wrong_answers_are_dropped_counted_and_oversampled(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every third answer holds the truth.
    verdicts = itertools.cycle([False, False, True])
    monkeypatch.setattr(answers, "holds_truth", lambda *_: next(verdicts))
    monkeypatch.setattr(answers, "trim", lambda _tokenizer, ids, _truths: list(ids))
    monkeypatch.setattr(answers, "repeats", lambda _: False)
    reporter = Silent()
    options = small_options(keep_wrong=False, attempts=3, tasks=("facts", "text"))
    found = calibrate(tiny_dir, tmp_path / "set", options, reporter)
    tally = found.manifest["tally"]
    facts, text = tally["profile/640/facts"], tally["profile/640/text"]
    assert (facts["wanted"], facts["kept"], facts["asked"], facts["wrong"]) == (2, 2, 6, 4)
    assert (text["asked"], text["kept"]) == (2, 2)
    assert len(found.select("profile", task="facts")) == 2
    assert not reporter.warnings


def test_a_model_that_knows_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    reporter = Silent()
    options = small_options(keep_wrong=False, attempts=2, tasks=("tables",))
    with pytest.raises(ArgumentError, match="answered none of the questions right"):
        calibrate(tiny_dir, tmp_path / "set", options, reporter)
    assert "profile 640 tables: kept 0 of 2" in reporter.warnings[0]
    assert not (tmp_path / "set" / MANIFEST).exists()


# --- what is asked


def _forms(split: Split) -> list[Form]:
    forms = forms_of(split)
    return [*forms.facts, *forms.tables, *forms.code]


def test_splits_share_no_form_and_no_word() -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        a, b = _forms(one), _forms(other)
        assert not {f.statement for f in a} & {f.statement for f in b}
        assert not {f.question for f in a} & {f.question for f in b}
        for name in ("quotes", "summaries"):
            assert not set(getattr(forms_of(one), name)) & set(getattr(forms_of(other), name))
        for field in fields(Words):
            mine, theirs = getattr(words_of(one), field.name), getattr(words_of(other), field.name)
            assert len(mine) >= 8
            assert not set(mine) & set(theirs), field.name


def test_splits_share_no_document() -> None:
    names = [{d.name for d in (*m.prose, *m.code)} for m in (material_of(s, None) for s in SPLITS)]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]


# What the evaluation suites ask for, by their published forms.
_EVALUATED = (
    r"pass ?key",
    r"remember it",
    r"\bline [a-z]+-[a-z]+:",
    r"register.?content",
    r"magic (number|word)",
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    r'"[0-9a-f]{8,}": *"',
)


@pytest.mark.parametrize("split", SPLITS)
def test_no_prompt_has_a_format_of_the_evaluation(tiny_dir: Path, split: Split) -> None:
    tokenizer = Tokenizer.load(str(tiny_dir))
    context = Context(tokenizer, material_of(split, None), 1024, 8)
    for task in RECALL_TASKS:
        for number in range(12):
            draft = make_draft(task, context, f"{split}{task}{number}")
            text = tokenizer.decode(draft.prompt_ids).lower()
            for pattern in _EVALUATED:
                assert not re.search(pattern, text), (task, number, pattern)


@pytest.mark.parametrize("split", SPLITS)
def test_forms_are_complete(split: Split) -> None:
    values = draw_fields(random.Random(0), words_of(split))
    for form in _forms(split):
        named = {
            name
            for text in (form.statement, form.question, form.opening, form.answer)
            for _, name, _, _ in string.Formatter().parse(text)
            if name
        }
        assert named <= set(values)
        statement = form.statement.format(**values)
        opening = form.opening.format(**values)
        # The beginning of the answer is that of the statement, and the answer follows it.
        assert statement.startswith(opening)
        assert form.answer.format(**values) in statement[len(opening) :]


@pytest.mark.parametrize("task", RECALL_TASKS)
def test_the_truth_stands_in_the_prompt(tiny_dir: Path, task: str) -> None:
    tokenizer = Tokenizer.load(str(tiny_dir))
    context = Context(tokenizer, material_of("profile", None), 1024, 8)
    for number in range(8):
        draft = make_draft(task, context, str(number))
        text = tokenizer.decode(draft.prompt_ids)
        assert draft.truths
        assert answers.holds_truth(text, draft.truths)


# --- answers


@pytest.mark.parametrize(
    ("answer", "truths", "want"),
    [
        ("It is 48213.", ("48213",), True),
        ("It is 48,213.", ("48213",), True),
        ("It is 482130.", ("48213",), False),
        ("In  LISBON and\nOslo", ("Lisbon", "Oslo"), True),
        ("Lisbon", ("Lisbon", "Oslo"), False),
        ("", ("x",), False),
    ],
)
def test_holds_truth(answer: str, truths: tuple[str, ...], want: bool) -> None:
    assert answers.holds_truth(answer, truths) is want


def test_answers_are_cut_behind_the_truth(tiny_dir: Path) -> None:
    tokenizer = Tokenizer.load(str(tiny_dir))
    ids = tokenizer.encode("It is 42 now.\nIt is something else, and so on and on.")
    kept = tokenizer.decode(answers.trim(tokenizer, ids, ("42",)))
    assert kept.startswith("It is 42")
    assert "else" not in kept


def test_repetition() -> None:
    assert answers.repeats([1, 2, 3, 4] * 5)
    assert not answers.repeats(list(range(20)))
    assert not answers.repeats([7, 7, 7])


# --- bad input


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"lengths": ()}, "lengths: got none"),
        ({"lengths": (100,)}, "lengths: got 100, want 256 to"),
        ({"lengths": (1 << 20,)}, "lengths: got 1048576"),
        ({"samples": 0}, "samples: got 0, want 1"),
        ({"tasks": ("passkey",)}, r"tasks: got \['passkey'\], want some of"),
        ({"tasks": ("text", "text")}, "want each once"),
        ({"device": "tpu"}, "device: got 'tpu'"),
    ],
)
def test_bad_options(tiny_dir: Path, tmp_path: Path, changes: dict[str, Any], want: str) -> None:
    with pytest.raises(ArgumentError, match=want):
        calibrate(tiny_dir, tmp_path / "set", small_options(**changes), Silent())
    assert not (tmp_path / "set").exists()


def test_source_too_short_for_the_length(tiny_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "short.txt"
    source.write_text("\n\n".join(f"Paragraph number {i} is short." for i in range(12)))
    want = (
        r"the split 'profile' has 1 document of \d+ characters in all, .*"
        r"filler: got \d+ tokens of text, want \d+; it takes \d+ tokens more"
    )
    with pytest.raises(ArgumentError, match=want):
        small_set(tiny_dir, tmp_path / "set", sources=(source,), tasks=("text",))


def test_source_of_which_a_split_gets_nothing(tiny_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny.txt"
    source.write_text("ab")
    want = r"got 1 document of 2 characters in all, and nothing of it for the split '\w+'; want 9 "
    with pytest.raises(ArgumentError, match=want):
        small_set(tiny_dir, tmp_path / "set", sources=(source,), tasks=("text",))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("count", [1, 9])
def test_users_files_of_one_line(tiny_dir: Path, tmp_path: Path, count: int) -> None:
    """No split is empty: nine documents fell by chance, one of a single line was not cut."""
    line = "".join(f"On day {i} nobody spoke of the storm at sea. " for i in range(5000 // count))
    for salt in range(30):
        user = [Document(f"own{i}", f"Ship {i} of {salt}. {line}") for i in range(count)]
        assert [material_of(split, user).split for split in SPLITS] == list(SPLITS)
    for document in user:
        (tmp_path / f"{document.name}.txt").write_text(document.text)
    sources = tuple(sorted(tmp_path.iterdir()))
    found = small_set(tiny_dir, tmp_path / "set", sources=sources, tasks=("text",))
    assert {sample.split for sample in found.samples} == set(SPLITS)


def test_source_that_is_not_there(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(IoError, match=r"nowhere\.txt"):
        small_set(tiny_dir, tmp_path / "set", sources=(tmp_path / "nowhere.txt",))


def test_users_text_takes_the_place_of_pythons(tiny_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "own.txt"
    words = "The harbour of Elmstead was quiet that morning and nobody spoke of the storm"
    source.write_text("\n\n".join(f"{words}, on day {i} of it." for i in range(400)))
    found = small_set(tiny_dir, tmp_path / "set", sources=(source,), tasks=("summary", "quote"))
    tokenizer = Tokenizer.load(str(tiny_dir))
    for sample in found.samples:
        assert "harbour of Elmstead" in tokenizer.decode(sample.prompt_ids)
        assert sample.source.startswith("own.txt#")
    days = [
        {
            re.sub(r"\D", "", d)
            for s in found.select(split)
            for d in re.findall(r"day \d+ of", tokenizer.decode(s.prompt_ids))
        }
        for split in get_args(Split)
    ]
    assert all(days)
    assert not days[0] & days[1]
    assert not days[0] & days[2]


def test_out_of_memory_names_the_length_that_fits(tiny_dir: Path) -> None:
    error = answers.explain_memory(MemoryError("full"), tiny_dir, 2048, "cpu", "auto")
    assert isinstance(error, ResourceError)
    assert "length 2048: out of memory on cpu; length 1024 fits" in str(error)


def test_disk_full_leaves_no_set(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "set"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        small_set(tiny_dir, out, tasks=("text",))
    monkeypatch.undo()
    assert not (out / MANIFEST).exists()
    assert not (out / SAMPLES).exists()
    assert len(small_set(tiny_dir, out, tasks=("text",)).samples) == 4


@pytest.mark.parametrize(
    ("change", "want"),
    [
        (lambda row: row.pop("task"), "fields: got"),
        (lambda row: row.update(split="test"), "split: got 'test'"),
        (lambda row: row.update(length=10), r"got \d+ \+ \d+ tokens, want at most length 10"),
        (lambda row: row.update(prompt_ids=[]), "prompt_ids: got"),
        (lambda row: row.update(prompt_ids=[1, 512]), r"prompt_ids\[1\]: got 512, want 0 to 511"),
        (lambda row: row.update(answer_ids=[True]), r"answer_ids\[0\]: got True"),
        (lambda row: row.update(length="640"), "length: got '640'"),
    ],
)
def test_bad_samples(tiny_dir: Path, small: Path, tmp_path: Path, change: Any, want: str) -> None:
    row = json.loads((small / SAMPLES).read_text().splitlines()[0])
    change(row)
    (tmp_path / SAMPLES).write_text(json.dumps(row) + "\n")
    (tmp_path / MANIFEST).write_bytes((small / MANIFEST).read_bytes())
    with pytest.raises(FormatError, match="line 1: .*" + want):
        load_samples(tmp_path, config=_config(tiny_dir))


@pytest.mark.parametrize(
    ("samples", "manifest", "want"),
    [
        (b"", None, "samples: got 0, want at least 1"),
        (b"\xff\xfe", None, "line 1: byte 0: invalid UTF-8"),
        (None, b"{}", "schema: got None"),
        (None, b'{"schema": 1,', "character"),
    ],
)
def test_bad_sets(
    small: Path, tmp_path: Path, samples: bytes | None, manifest: bytes | None, want: str
) -> None:
    (tmp_path / SAMPLES).write_bytes((small / SAMPLES).read_bytes() if samples is None else samples)
    (tmp_path / MANIFEST).write_bytes(
        (small / MANIFEST).read_bytes() if manifest is None else manifest
    )
    with pytest.raises(FormatError, match=want):
        load_samples(tmp_path, config=None)


def test_command(tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    arguments = ["--lengths", "640", "704", "--samples", "1", "--keep-wrong", "--task", "text"]
    assert main(["calibrate", str(tiny_dir), str(out), *arguments]) == 0
    assert load_samples(out, config=None).lengths == (640, 704, 1408)
    assert "4 samples" in capsys.readouterr().out
    assert main(["calibrate", str(tiny_dir), str(out), "640"]) == 2
    assert "want --lengths before them" in capsys.readouterr().err
