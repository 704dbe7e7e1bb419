"""Retrieval prompts: exact length with every tokenizer, the fact at its depth, nothing random."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from moa_rt import ArgumentError, Tokenizer
from moa_tools.evaluate.items import Grid, Item, digest
from moa_tools.evaluate.prompts import Kit, frame_of
from moa_tools.evaluate.retrieval import GENERATORS, lines, make_items
from support_eval import GOLDEN, SENTENCES, kit_of

FAMILIES = sorted(path.name for path in GOLDEN.iterdir())
GRID = Grid(samples=10, depths=5, seed=3, facts=3)


def spoken(kit: Kit, item: Item) -> str:
    return kit.tokenizer.decode(item.prompt_ids.tolist(), skip_special=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", sorted(GENERATORS))
@pytest.mark.parametrize("length", [700, 701, 1024])
def test_prompt_and_answer_fill_the_budget_exactly(family: str, name: str, length: int) -> None:
    kit = kit_of(GOLDEN / family)
    for item in make_items(name, kit, GRID, length):
        assert len(item.prompt_ids) + item.max_new_tokens == length
        assert item.max_new_tokens > 0


def test_exact_with_the_real_tokenizer(smollm2_dir: Path) -> None:
    kit = kit_of(smollm2_dir)
    for name in GENERATORS:
        for length in (255 + 64, 512, 2048):
            for item in make_items(name, kit, GRID, length):
                assert len(item.prompt_ids) + item.max_new_tokens == length


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frame_is_the_chat_template(family: str) -> None:
    tokenizer = Tokenizer.load(GOLDEN / family)
    kit = Kit(tokenizer, SENTENCES)
    ids = kit.chat(kit.encode("Hello there"), "Yes:")
    text = tokenizer.decode(ids, skip_special=False)
    if not tokenizer.has_chat_template:
        start = tokenizer.decode(tokenizer.encode(""), skip_special=False)
        assert text.split() == [*start.split(), "Hello", "there", "Yes:"]
        return
    whole = tokenizer.apply_chat_template([{"role": "user", "content": "Hello there"}])
    assert text.replace(" ", "") == (whole + "Yes:").replace(" ", "")
    assert frame_of(tokenizer).before == tuple(ids[: len(frame_of(tokenizer).before)])


@pytest.mark.parametrize("name", ["passkey", "lines", "kv"])
def test_the_fact_is_in_the_text_at_its_depth(name: str) -> None:
    kit = kit_of(GOLDEN / "qwen2")
    longest = max(len(kit.encode(sentence + " ")) for sentence in SENTENCES)
    for item in make_items(name, kit, GRID, 2048):
        text = spoken(kit, item)
        value = item.gold[0]
        assert value in text
        # Measured in the tokens of the finished prompt, from the body's beginning.
        before = len(kit.encode(text[: text.index(value)]))
        assert abs(before / len(item.prompt_ids) - item.depth) < 0.1
        assert abs(item.placed - item.depth) < (longest + 160) / 2048
    depths = [item.depth for item in make_items(name, kit, GRID, 2048)]
    assert depths == [0.1, 0.3, 0.5, 0.7, 0.9] * 2


def test_only_one_line_has_the_name_that_is_asked_for() -> None:
    kit = kit_of(GOLDEN / "qwen2")
    for item in make_items("lines", kit, Grid(samples=5, facts=20), 2048):
        text = spoken(kit, item)
        found = re.findall(r"line ([a-z]+-[a-z]+): REGISTER_CONTENT is <(\d+)>", text)
        asked = re.findall(r"REGISTER_CONTENT in line ([a-z]+-[a-z]+)\?", text)
        assert len(found) == 20
        assert len({name for name, _ in found}) == 20
        assert dict(found)[asked[0]] == item.gold[0]


@pytest.mark.parametrize("name", ["lines", "kv"])
def test_as_many_facts_as_fit(name: str) -> None:
    kit = kit_of(GOLDEN / "qwen2")
    grid = Grid(samples=5, depths=5, facts=0)
    for item in make_items(name, kit, grid, 1500):
        text = spoken(kit, item)
        pattern = r"line \S+: REGISTER" if name == "lines" else r'"[0-9a-f-]{13}": "[0-9a-f-]{13}"'
        count = len(re.findall(pattern, text))
        one = len(kit.encode(text)) / count
        filler = [s for s in SENTENCES if s in text]
        assert len(filler) * 20 < 3 * one, "no room for one more"
        assert abs(text.index(item.gold[0]) / len(text) - item.depth) < 0.15


def test_all_lines_there_are_and_then_filler() -> None:
    kit = kit_of(GOLDEN / "qwen2")
    length = 50 * lines.MOST_FACTS
    (item,) = make_items("lines", kit, Grid(samples=1, facts=0), length)
    names = re.findall(r"line (\S+): REGISTER_CONTENT is <\d+>\n", spoken(kit, item))
    assert len(set(names)) == len(names) == lines.MOST_FACTS
    assert len(item.prompt_ids) + item.max_new_tokens == length


def test_no_more_facts_than_there_are() -> None:
    kit = kit_of(GOLDEN / "qwen2")
    (item,) = make_items("needles", kit, Grid(samples=1, facts=25), 4096)
    assert len(set(re.findall(r"number of (\S+) is (\d+)\.", spoken(kit, item)))) == 25
    with pytest.raises(ArgumentError, match="needles: length 4096: facts: got 26, want at most 25"):
        make_items("needles", kit, Grid(samples=1, facts=26), 4096)
    with pytest.raises(ArgumentError, match=f"want at most {lines.MOST_FACTS}"):
        make_items("lines", kit, Grid(samples=1, facts=lines.MOST_FACTS + 1), 1 << 17)


def test_same_seed_same_bytes_and_other_seed_other_questions() -> None:
    kit = kit_of(GOLDEN / "llama3")
    again = kit_of(GOLDEN / "llama3")
    for name in GENERATORS:
        items = make_items(name, kit, GRID, 900)
        assert digest(items) == digest(make_items(name, again, GRID, 900))
        assert len({item.gold for item in items}) == len(items)
        other = make_items(name, kit, Grid(samples=10, depths=5, seed=4, facts=3), 900)
        assert digest(items) != digest(other)
        more = make_items(name, kit, Grid(samples=20, depths=5, seed=3, facts=3), 900)
        assert digest(more[:10]) == digest(items), "more samples keep the first ones"


def test_teacher_forced_prompts_leave_room_for_the_gold_only() -> None:
    kit = kit_of(GOLDEN / "qwen2")
    grid = Grid(samples=4, facts=2, teacher_forced=True)
    for name in GENERATORS:
        for item in make_items(name, kit, grid, 800):
            assert item.max_new_tokens == len(item.gold_ids)
            assert len(item.prompt_ids) + item.max_new_tokens == 800
            whole = kit.tokenizer.decode([*item.prompt_ids.tolist(), *item.gold_ids])
            assert all(whole.count(value) >= 2 for value in item.gold), "in the text and answered"


def test_too_short_a_length_names_suite_and_least() -> None:
    kit = kit_of(GOLDEN / "qwen2")
    with pytest.raises(ArgumentError, match=r"kv: length 100: length: got -?\d+ tokens of room"):
        make_items("kv", kit, GRID, 100)
    with pytest.raises(ArgumentError, match="needles: got 0 facts"):
        make_items("needles", kit, Grid(samples=1, facts=0), 1000)
    with pytest.raises(ArgumentError, match="got 'nosuch', want one of"):
        make_items("nosuch", kit, GRID, 1000)
    with pytest.raises(ArgumentError, match="filler: got no sentence"):
        Kit(kit.tokenizer, ["too short"])


def test_ids_are_those_of_the_vocabulary() -> None:
    for family in FAMILIES:
        kit = kit_of(GOLDEN / family)
        for item in make_items("needles", kit, GRID, 1200):
            assert item.prompt_ids.dtype == np.int32
            assert item.prompt_ids.min() >= 0
            assert item.prompt_ids.max() < kit.tokenizer.vocab_size
