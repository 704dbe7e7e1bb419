"""What calls of the engine give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    BusyError,
    Completion,
    Engine,
    ModelConfig,
    RequestOptions,
    SpanRule,
    StateError,
    TokenEvent,
    predict_memory,
)
from moa_rt.prompts import Prompt
from support_engine import IDS, greedy


def test_text_chat_and_ids_alone_and_in_lists(cpu_engine: Engine) -> None:
    text = "The quick brown fox"
    ids = cpu_engine.tokenizer.encode(text)
    options = RequestOptions(max_new_tokens=4, ignore_eos=True)
    one = cpu_engine.generate(text, options)
    assert isinstance(one, Completion)
    assert one.token_ids == cpu_engine.generate(ids, options).token_ids
    assert one.text == cpu_engine.tokenizer.decode(one.token_ids)
    assert (one.prompt_tokens, one.completion_tokens) == (len(ids), 4)
    assert one.finish_reason == "length"
    assert one.error is None
    assert one.logprobs == []
    prompts: list[Prompt] = [text, ids, tuple(ids), np.array(ids)]
    many = cpu_engine.generate(prompts, options)
    assert [c.token_ids for c in many] == [one.token_ids] * 4
    array = cpu_engine.generate(np.array(ids), options)
    assert isinstance(array, Completion)
    assert array.token_ids == one.token_ids


def test_chats(smollm2_dir: Path) -> None:
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    with Engine(smollm2_dir, max_seq_len=256) as engine:
        ids = engine.tokenizer.encode_chat(chat)
        one = engine.generate(chat, max_new_tokens=12)
        assert one.prompt_tokens == len(ids)
        assert "Paris" in one.text
        both: list[Prompt] = [chat, ids]
        many = engine.generate(both, max_new_tokens=12)
        assert [c.text for c in many] == [one.text] * 2


def test_events_add_up_to_the_completion(engine: Engine) -> None:
    events: list[TokenEvent] = []
    out = engine.generate(
        [IDS, IDS[:3]], max_new_tokens=6, ignore_eos=True, logprobs=2, on_token=events.append
    )
    for row, completion in enumerate(out):
        mine = [e for e in events if e.request == row]
        assert [e.token for e in mine] == completion.token_ids
        assert "".join(e.text for e in mine) == completion.text
        assert [e.finish_reason for e in mine] == [None] * 5 + ["length"]
        for event, entry in zip(mine, completion.logprobs, strict=True):
            assert event.logprob is not None
            assert event.logprob.logprob == entry.logprob
            assert entry.top[0] == (entry.token, entry.logprob), "greedy: the likeliest"
            assert len(entry.top) == 2


def test_submit_and_step_are_what_generate_does(engine: Engine) -> None:
    want = greedy(engine, IDS)
    request = engine.submit(IDS, max_new_tokens=8, ignore_eos=True)
    got: list[int] = []
    while engine.has_work:
        for event in engine.step():
            assert event.request == request
            if event.token is not None:
                got.append(event.token)
    assert got == want
    assert engine.step() == []


def test_options_per_prompt(engine: Engine) -> None:
    out = engine.generate(
        [IDS, IDS, IDS],
        [{"max_new_tokens": 2}, RequestOptions(max_new_tokens=3, ignore_eos=True), {}],
        ignore_eos=True,
        min_new_tokens=1,
    )
    assert [c.completion_tokens for c in out] == [2, 3, 256]
    with pytest.raises(ArgumentError, match="options: got 1 entries, want one for each of the 2"):
        engine.generate([IDS, IDS], [{}])


def test_seed_decides_and_neighbours_do_not(cpu_engine: Engine) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    alone = cpu_engine.generate(IDS, seed=7, **options).token_ids
    batch = cpu_engine.generate(
        [IDS, IDS, IDS[:2]], [{"seed": 8}, {"seed": 7}, {"seed": 9}], **options
    )
    assert batch[1].token_ids == alone
    assert batch[0].token_ids != alone


def test_logit_bias_forces_and_forbids(engine: Engine) -> None:
    forced = engine.generate(IDS, max_new_tokens=3, logit_bias={77: 100.0}, ignore_eos=True)
    assert forced.token_ids == [77] * 3
    first = greedy(engine, IDS, 1)[0]
    other = engine.generate(IDS, max_new_tokens=1, logit_bias={first: -100}, ignore_eos=True)
    assert other.token_ids != [first]


def test_stop_ids_and_texts(engine: Engine) -> None:
    tokens = greedy(engine, IDS, 8)
    stopped = engine.generate(IDS, max_new_tokens=8, ignore_eos=True, stop_token_ids=[tokens[3]])
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == tokens[: tokens.index(tokens[3]) + 1]
    whole = engine.generate(IDS, max_new_tokens=40, ignore_eos=True).text
    stop = whole[len(whole) // 2 :][:3]
    cut = engine.generate(IDS, max_new_tokens=40, ignore_eos=True, stop=stop)
    assert cut.finish_reason == "stop"
    assert cut.text == whole[: whole.index(stop)]


def test_more_prompts_than_max_batch_wait(cpu_engine: Engine) -> None:
    prompts = [[i % 500 + 3, 4, 5] for i in range(11)]
    out = cpu_engine.generate(prompts, max_new_tokens=5, ignore_eos=True)
    assert [c.token_ids for c in out] == [greedy(cpu_engine, p, 5) for p in prompts]


def test_stream_that_can_never_run(tiny_dir: Path) -> None:
    with Engine(tiny_dir, kv_cache_bytes=600_000, max_seq_len=256, num_threads=1) as engine:
        with engine.open_session(256):
            stream = engine.stream(IDS, max_new_tokens=250)
            with pytest.raises(BusyError, match="sessions hold the memory"):
                next(stream)
        assert next(stream).token is not None, "it has room now"


def test_streams_side_by_side(cpu_engine: Engine) -> None:
    want = greedy(cpu_engine, IDS), greedy(cpu_engine, IDS[:4])
    first = cpu_engine.stream(IDS, max_new_tokens=8, ignore_eos=True)
    second = cpu_engine.stream(IDS[:4], max_new_tokens=8, ignore_eos=True)
    third = cpu_engine.submit(IDS, max_new_tokens=8, ignore_eos=True)
    got: tuple[list[int | None], list[int | None]] = ([], [])
    for a, b in zip(first, second, strict=True):
        got[0].append(a.token)
        got[1].append(b.token)
    assert got == want
    rest = []
    while cpu_engine.has_work:
        rest += cpu_engine.step()
    assert [e.token for e in rest if e.request == third] == want[0]


def test_memory_adds_up(tiny_dir: Path) -> None:
    plan = AttentionPlan.uniform(ModelConfig.load(tiny_dir), 0.25)
    with Engine(tiny_dir, plan, max_seq_len=4096, num_threads=1, max_batch=4) as engine:
        predicted = predict_memory(
            tiny_dir, plan, max_seq_len=4096, num_threads=1, max_batch=4, prefill_chunk=256
        )
        report = engine.memory
        assert report.kv_cache == 0
        assert (report.weights, report.scratch) == (predicted.weights, predicted.scratch)
        engine.submit(IDS, max_new_tokens=2000 - len(IDS), ignore_eos=True)
        engine.step()
        assert engine.memory.kv_cache == engine.plan.cache_bytes(2000, "float32")
        assert engine.memory.kv_cache == plan.cache_bytes(2000, "float32")
        assert predicted.kv_per_sequence == plan.cache_bytes(4096, "float32")
        assert sum(predicted.kv_per_layer) == predicted.kv_per_sequence
        assert predicted.total(2) - predicted.total(1) == predicted.kv_per_sequence


def test_a_plan_that_is_dense_below_its_range_admits_what_is_shorter(tiny_dir: Path) -> None:
    config = ModelConfig.load(tiny_dir)
    rules = [[SpanRule(0, 0.125)] * config.num_key_value_heads] * config.num_hidden_layers
    plan = AttentionPlan.from_rules(rules, min_length=1024)
    options: dict[str, Any] = {"max_seq_len": 1024, "num_threads": 1, "max_batch": 1}
    predicted = predict_memory(tiny_dir, plan, **options)
    dense = plan.cache_bytes(1023, "float32", config=config)
    assert predicted.largest_kv == dense > predicted.kv_per_sequence
    assert predicted.total(1) - predicted.total(0) == predicted.largest_kv
    assert predicted.total(32) - predicted.total(31) == predicted.kv_per_sequence
    with Engine(tiny_dir, plan, **options) as engine:
        assert engine.generate(IDS, max_new_tokens=4, ignore_eos=True).finish_reason == "length"


def test_decode_takes_no_blocks(engine: Engine) -> None:
    engine.submit(IDS, max_new_tokens=40, ignore_eos=True)
    engine.step()
    engine.step()
    before = engine.stats.allocations
    for _ in range(30):
        assert engine.step()
    assert engine.stats.allocations == before


def test_sessions(cpu_engine: Engine) -> None:
    whole = greedy(cpu_engine, [*IDS, 20, 21], 5)
    with cpu_engine.open_session(64) as session:
        first = session.generate(IDS, max_new_tokens=0)
        assert first.token_ids == []
        assert session.length == len(IDS)
        assert session.generate([20, 21], max_new_tokens=5, ignore_eos=True).token_ids == whole
        assert session.length == len(IDS) + 2 + 5
        session.rollback(5)
        assert session.length == len(IDS) + 2
        with pytest.raises(ArgumentError, match="session 8"):
            session.generate([1] * 60, max_new_tokens=8)
    with pytest.raises(StateError, match="not open"):
        session.generate(IDS, max_new_tokens=1)
    session.close()


def test_repr(cpu_engine: Engine) -> None:
    assert (
        repr(cpu_engine) == "<moa_rt.Engine llama on cpu in float32, max_batch=4, max_seq_len=4096>"
    )
    cpu_engine.close()
    assert repr(cpu_engine) == "<moa_rt.Engine closed>"
