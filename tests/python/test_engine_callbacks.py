"""Threads, callbacks, cancelling, closing: rows G8 to G11 and J5 of the bad inputs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from moa_rt import (
    ArgumentError,
    Engine,
    StateError,
    TokenEvent,
)
from support_engine import IDS, greedy


def test_G8_two_threads_get_what_one_would(cpu_engine: Engine) -> None:
    prompts = [[i + 3, i + 4, i + 5] for i in range(6)]
    want = [greedy(cpu_engine, p, 40) for p in prompts]
    got: dict[int, list[int]] = {}

    def ask(row: int) -> None:
        got[row] = greedy(cpu_engine, prompts[row], 40)

    threads = [threading.Thread(target=ask, args=(row,)) for row in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[row] for row in range(6)] == want


def test_G9_callback_raises(engine: Engine) -> None:
    class MineError(Exception):
        pass

    seen = [0, 0]

    def callback(event: TokenEvent) -> None:
        seen[event.request] += 1
        if event.request == 0 and seen[0] == 3:
            raise MineError("third")

    with pytest.raises(MineError, match="third") as caught:
        engine.generate([IDS, IDS], max_new_tokens=9, ignore_eos=True, on_token=callback)
    assert caught.traceback[-1].name == "callback"
    assert seen[0] in (3, 4), "its request ended: at most the event that says so"
    assert seen[1] == 9, "the other one went on"
    assert greedy(engine, IDS)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_G9_callback_raises_to_end_everything(engine: Engine, error: type[BaseException]) -> None:
    seen = []

    def callback(event: TokenEvent) -> None:
        seen.append(event.request)
        if len(seen) == 4:
            raise error

    with pytest.raises(error):
        engine.generate([IDS, IDS], max_new_tokens=4000, ignore_eos=True, on_token=callback)
    assert len(seen) < 20
    assert not engine.has_work
    assert engine.memory.kv_cache == 0
    assert len(greedy(engine, IDS)) == 8


def test_G9_callback_calls_the_engine(engine: Engine) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: engine.generate(IDS),
        lambda: engine.submit(IDS),
        engine.step,
        lambda: engine.score(IDS),
        lambda: engine.logits(IDS),
    ]
    errors: list[str] = []

    def callback(_: TokenEvent) -> None:
        for call in calls:
            try:
                call()
            except StateError as error:
                errors.append(str(error))

    out = engine.generate(IDS, max_new_tokens=2, ignore_eos=True, on_token=callback)
    assert out.completion_tokens == 2
    assert len(errors) == 10
    assert all("callback" in text for text in errors)


def test_G9_G11_callback_closes_the_engine(engine: Engine) -> None:
    def callback(_: TokenEvent) -> None:
        engine.close()

    out = engine.generate(IDS, max_new_tokens=100, ignore_eos=True, on_token=callback)
    assert out.finish_reason == "cancelled"
    assert 1 <= out.completion_tokens < 100
    assert engine.closed
    with pytest.raises(StateError, match="closed"):
        engine.generate(IDS)


@pytest.mark.parametrize("answer", [0, "x", 1, [], object()], ids=["0", "x", "1", "list", "object"])
def test_J5_callback_returns_garbage(engine: Engine, answer: Any) -> None:
    with pytest.raises(ArgumentError, match="on_token"):
        engine.generate(IDS, max_new_tokens=5, on_token=lambda _: answer)


def test_callback_must_be_callable(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match="on_token"):
        engine.generate(IDS, on_token=3)  # type: ignore[call-overload]


def test_G10_cancel_at_any_time(engine: Engine) -> None:
    want = greedy(engine, IDS)

    def ends(request: int, steps: int) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        for _ in range(steps):
            events += engine.step()
        engine.cancel(request)
        engine.cancel(request)
        while engine.has_work:
            events += engine.step()
        engine.cancel(request)
        assert [e.finish_reason for e in events if e.finish_reason] == ["cancelled"]
        return events

    queued = engine.submit(IDS, max_new_tokens=8, ignore_eos=True)
    assert [e.token for e in ends(queued, 0)] == [None]
    prefilling = engine.submit([5] * 1000, max_new_tokens=8, ignore_eos=True)
    assert [e.token for e in ends(prefilling, 2)] == [None]
    decoding = engine.submit(IDS, max_new_tokens=8, ignore_eos=True)
    tokens = [e.token for e in ends(decoding, 4) if e.token is not None]
    assert tokens == want[:4], "partial tokens are kept"
    assert engine.memory.kv_cache == 0
    engine.cancel(10**6)
    assert greedy(engine, IDS) == want


def test_G10_callback_says_stop(engine: Engine) -> None:
    out = engine.generate(
        [IDS, IDS],
        max_new_tokens=9,
        ignore_eos=True,
        on_token=lambda e: None if e.request else False,
    )
    assert [c.finish_reason for c in out] == ["cancelled", "length"]
    assert out[0].token_ids == out[1].token_ids[: out[0].completion_tokens]


def test_G11_use_after_close(engine: Engine) -> None:
    running = engine.submit(IDS, max_new_tokens=100)
    engine.step()
    engine.close()
    engine.close()
    assert engine.closed
    calls: list[Callable[[], Any]] = [
        lambda: engine.generate(IDS),
        lambda: engine.generate([]),
        lambda: engine.submit(IDS),
        engine.step,
        lambda: engine.score(IDS),
        lambda: engine.open_session(8),
        lambda: engine.memory,
        lambda: engine.stats,
        lambda: engine.has_work,
    ]
    for call in calls:
        with pytest.raises(StateError, match="closed"):
            call()
    engine.cancel(running)
    assert engine.config.vocab_size == 512
