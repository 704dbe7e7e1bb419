"""Calls of the engine: what they give, and group G of the bad inputs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import (
    ArgumentError,
    AttentionPlan,
    BusyError,
    Completion,
    DeviceError,
    Engine,
    MismatchError,
    ModelConfig,
    NumericError,
    RequestOptions,
    ResourceError,
    StateError,
    TokenEvent,
    UnsupportedError,
    predict_memory,
)
from moa_rt._core import SafetensorsFile
from moa_rt.prompts import Prompt

IDS = [5, 6, 7, 8, 9, 10]


def greedy(engine: Engine, prompt: list[int], count: int = 8) -> list[int]:
    return engine.generate(prompt, max_new_tokens=count, ignore_eos=True).token_ids


# --- what calls give


def test_text_chat_and_ids_alone_and_in_lists(engine: Engine) -> None:
    text = "The quick brown fox"
    ids = engine.tokenizer.encode(text)
    options = RequestOptions(max_new_tokens=4, ignore_eos=True)
    one = engine.generate(text, options)
    assert isinstance(one, Completion)
    assert one.token_ids == engine.generate(ids, options).token_ids
    assert one.text == engine.tokenizer.decode(one.token_ids)
    assert (one.prompt_tokens, one.completion_tokens) == (len(ids), 4)
    assert one.finish_reason == "length"
    assert one.error is None
    assert one.logprobs == []
    prompts: list[Prompt] = [text, ids, tuple(ids), np.array(ids)]
    many = engine.generate(prompts, options)
    assert [c.token_ids for c in many] == [one.token_ids] * 4
    array = engine.generate(np.array(ids), options)
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


def test_seed_decides_and_neighbours_do_not(engine: Engine) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    alone = engine.generate(IDS, seed=7, **options).token_ids
    batch = engine.generate([IDS, IDS, IDS[:2]], [{"seed": 8}, {"seed": 7}, {"seed": 9}], **options)
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


def test_more_prompts_than_max_batch_wait(engine: Engine) -> None:
    prompts = [[i % 500 + 3, 4, 5] for i in range(11)]
    out = engine.generate(prompts, max_new_tokens=5, ignore_eos=True)
    assert [c.token_ids for c in out] == [greedy(engine, p, 5) for p in prompts]


def test_stream_that_can_never_run(tiny_dir: Path) -> None:
    with Engine(tiny_dir, kv_cache_bytes=600_000, max_seq_len=256, num_threads=1) as engine:
        with engine.open_session(256):
            stream = engine.stream(IDS, max_new_tokens=250)
            with pytest.raises(BusyError, match="sessions hold the memory"):
                next(stream)
        assert next(stream).token is not None, "it has room now"


def test_streams_side_by_side(engine: Engine) -> None:
    want = greedy(engine, IDS), greedy(engine, IDS[:4])
    first = engine.stream(IDS, max_new_tokens=8, ignore_eos=True)
    second = engine.stream(IDS[:4], max_new_tokens=8, ignore_eos=True)
    third = engine.submit(IDS, max_new_tokens=8, ignore_eos=True)
    got: tuple[list[int | None], list[int | None]] = ([], [])
    for a, b in zip(first, second, strict=True):
        got[0].append(a.token)
        got[1].append(b.token)
    assert got == want
    rest = []
    while engine.has_work:
        rest += engine.step()
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


def test_decode_takes_no_blocks(engine: Engine) -> None:
    engine.submit(IDS, max_new_tokens=40, ignore_eos=True)
    engine.step()
    engine.step()
    before = engine.stats.allocations
    for _ in range(30):
        assert engine.step()
    assert engine.stats.allocations == before


def test_sessions(engine: Engine) -> None:
    whole = greedy(engine, [*IDS, 20, 21], 5)
    with engine.open_session(64) as session:
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


def test_repr(engine: Engine) -> None:
    assert repr(engine) == "<moa_rt.Engine llama on cpu in float32, max_batch=4, max_seq_len=4096>"
    engine.close()
    assert repr(engine) == "<moa_rt.Engine closed>"


# --- group G


def test_G1_empty_prompt_and_empty_batch(engine: Engine, smollm2_dir: Path) -> None:
    none: list[str] = []
    assert engine.generate(none) == []
    empty: Any
    for empty in ([[]], [IDS, []], [()], [np.array([], dtype=np.int64)]):
        with pytest.raises(ArgumentError, match=r"prompts\[\d\]: got 0 tokens, want at least 1"):
            engine.generate(empty)
    with Engine(smollm2_dir, max_seq_len=64) as no_bos:
        for empty in ("", [""]):
            with pytest.raises(ArgumentError, match=r"prompts\[0\]: got 0 tokens"):
                no_bos.generate(empty)


@pytest.mark.parametrize("bad", [-1, 512, 2**31, 2**63, 2**70])
def test_G2_token_ids_out_of_range(engine: Engine, bad: int) -> None:
    with pytest.raises(ArgumentError, match=rf"prompts\[1\]\[2\]: got {bad}"):
        engine.generate([IDS, [1, 2, bad]])
    with pytest.raises(ArgumentError, match=rf"token_ids\[0\]: got {bad}"):
        engine.score([bad])
    assert len(greedy(engine, IDS)) == 8


@pytest.mark.parametrize(
    "bad",
    [
        np.array([1.0, 2.0]),
        np.array([True, False]),
        np.array([1, 2], dtype=object),
        np.array([[1, 2]]),
        np.array(3),
        [True, 1],
        [1.0, 2],
        ["1"],
        [None],
        {1, 2},
        b"ab",
        bytearray(b"ab"),
        3,
        None,
    ],
    ids=repr,
)
def test_G2_no_token_ids(engine: Engine, bad: Any) -> None:
    with pytest.raises(ArgumentError, match=r"prompts\[1\]"):
        engine.generate([IDS, bad])
    with pytest.raises(ArgumentError, match="token_ids"):
        engine.score(bad)


def test_G3_too_long_says_the_three_numbers(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match=r"prompt 4000 .* 97 = 4097 tokens.*at most 4096"):
        engine.generate([1] * 4000, max_new_tokens=97)
    with pytest.raises(ArgumentError, match="prompt 5000"):
        engine.generate([1] * 5000, max_new_tokens=1)
    cut = engine.generate([1] * 5000, max_new_tokens=1, truncate_left=True)
    assert cut.prompt_tokens == 4095


def test_G4_new_tokens(engine: Engine, tiny_dir: Path) -> None:
    none = engine.generate(IDS, max_new_tokens=0)
    assert (none.token_ids, none.text, none.finish_reason) == ([], "", "length")
    with pytest.raises(ArgumentError, match="max_new_tokens: got -1"):
        engine.generate(IDS, max_new_tokens=-1)
    for huge in (2**31, 2**62):
        with pytest.raises(ArgumentError, match=f"max_new_tokens {huge}"):
            engine.generate(IDS, max_new_tokens=huge)
    with Engine(tiny_dir, max_seq_len=32, num_threads=1) as short:
        assert len(short.generate(IDS, max_new_tokens=None, ignore_eos=True).token_ids) == 26


def test_G5_queue_full_and_ragged(tiny_dir: Path) -> None:
    with Engine(tiny_dir, max_batch=1, max_queue=2, max_seq_len=256, num_threads=1) as engine:
        for _ in range(2):
            engine.submit(IDS, max_new_tokens=2)
        with pytest.raises(BusyError, match="queue is full"):
            engine.submit(IDS, max_new_tokens=2)
        while engine.has_work:
            engine.step()
        ragged = [[3] * n for n in (1, 40, 7, 100)]
        out = engine.generate(ragged, max_new_tokens=3, ignore_eos=True)
        assert [c.prompt_tokens for c in out] == [1, 40, 7, 100]


G6 = [
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", -1.0),
    ("temperature", "0.7"),
    ("temperature", True),
    ("top_p", 0.0),
    ("top_p", math.nan),
    ("top_p", 1.0001),
    ("top_k", -1),
    ("top_k", 513),
    ("top_k", 2.0),
    ("min_p", -0.1),
    ("min_p", math.nan),
    ("seed", -1),
    ("seed", 2**64),
    ("seed", 1.0),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.nan),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -math.inf),
    ("logprobs", 65),
    ("logprobs", -1),
    ("deadline_seconds", -1.0),
    ("deadline_seconds", math.nan),
]


@pytest.mark.parametrize(("name", "value"), G6, ids=lambda v: repr(v))
def test_G6_options_out_of_bounds(engine: Engine, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        engine.generate(IDS, max_new_tokens=1, **{name: value})
    assert not engine.has_work


def test_G6_tiny_temperature_is_greedy(engine: Engine) -> None:
    out = engine.generate(IDS, max_new_tokens=8, ignore_eos=True, temperature=1e-30, seed=3)
    assert out.token_ids == greedy(engine, IDS)


G7: list[tuple[str, dict[str, Any]]] = [
    ("min_new_tokens", {"min_new_tokens": 3, "max_new_tokens": 2}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": ["a", ""]}),
    ("stop", {"stop": ["x"] * 10_000}),
    ("stop", {"stop": 5}),
    ("stop", {"stop": ["\ud800"]}),
    ("stop_token_ids", {"stop_token_ids": [512]}),
    ("stop_token_ids", {"stop_token_ids": [-1]}),
    ("logit_bias", {"logit_bias": {512: 1.0}}),
    ("logit_bias", {"logit_bias": {1: math.nan}}),
    ("logit_bias", {"logit_bias": {1: math.inf}}),
    ("logit_bias", {"logit_bias": {"1": 1.0}}),
    ("logit_bias", {"logit_bias": [1.0]}),
    ("logit_bias", {"logit_bias": dict.fromkeys(range(1_000_000), 0.0)}),
]


@pytest.mark.parametrize(("name", "options"), G7, ids=lambda v: str(v)[:40])
def test_G7_bad_lists(engine: Engine, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=name):
        engine.generate(IDS, **options)
    with pytest.raises(ArgumentError, match=name):
        engine.submit(IDS, **options)


def test_unknown_option_is_a_type_error(engine: Engine) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_tokens'"):
        engine.generate(IDS, max_tokens=3)


def test_G8_two_threads_get_what_one_would(engine: Engine) -> None:
    prompts = [[i + 3, i + 4, i + 5] for i in range(6)]
    want = [greedy(engine, p, 40) for p in prompts]
    got: dict[int, list[int]] = {}

    def ask(row: int) -> None:
        got[row] = greedy(engine, prompts[row], 40)

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


@pytest.mark.parametrize("answer", [0, "x", 1, [], object()], ids=repr)
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


FORK = """
import os, sys, moa_rt
engine = moa_rt.Engine(sys.argv[1], num_threads=2, max_seq_len=128)
want = engine.generate([5, 6], max_new_tokens=4, ignore_eos=True).token_ids
child = os.fork()
if child == 0:
    words = []
    for call in (lambda: engine.generate([5]), engine.step, lambda: engine.score([5, 6]),
                 lambda: engine.memory, lambda: engine.submit([5])):
        try:
            call()
            words.append("no error")
        except moa_rt.StateError as error:
            words.append(str(error))
    good = all(f"created in pid {os.getppid()}" in w for w in words)
    sys.exit(0 if good else 3)  # a full exit: the engine is destroyed in the child
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert engine.generate([5, 6], max_new_tokens=4, ignore_eos=True).token_ids == want
print("parent fine")
"""


def run(code: str, *arguments: str | Path, timeout: float = 60.0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    assert done.stderr == ""
    return done.stdout


def test_G12_forked_child(tiny_dir: Path) -> None:
    assert run(FORK, tiny_dir) == "parent fine\n"


SPAWN = """
import multiprocessing, sys, moa_rt
def work(directory, queue):
    with moa_rt.Engine(directory, num_threads=1, max_seq_len=128) as engine:
        queue.put(engine.generate([5, 6], max_new_tokens=2, ignore_eos=True).token_ids)
"""


def test_G12_spawned_child_makes_its_own(tiny_dir: Path, tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "spawned.py").write_text(SPAWN)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import multiprocessing, spawned\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    child = context.Process(target=spawned.work, args=(sys.argv[1], queue))\n"
        "    child.start(); print(queue.get()); child.join()\n"
    )
    assert run(code, tiny_dir) == f"{greedy(engine, [5, 6], 2)}\n"


G13 = {
    "idle": "",
    "request running": "engine.submit([5], max_new_tokens=100); engine.step()",
    "session open": "session = engine.open_session(64); session.generate([5], max_new_tokens=2)",
    "stream half way": "stream = engine.stream([5], max_new_tokens=100); next(stream)",
    "in a cycle": "loop = [engine]; loop.append(loop); del engine",
    "atexit": "import atexit; atexit.register(lambda: engine.generate([5], max_new_tokens=2))",
}


@pytest.mark.parametrize("what", list(G13))
def test_G13_exit_with_a_live_engine(tiny_dir: Path, what: str) -> None:
    code = "import sys, moa_rt\nengine = moa_rt.Engine(sys.argv[1], num_threads=2)\n" + G13[what]
    assert run(code, tiny_dir, timeout=20) == ""


def test_G14_no_such_device(tiny_dir: Path) -> None:
    with pytest.raises(DeviceError, match=r"(?i)cuda"):
        Engine(tiny_dir, device="cuda")
    for name in ("gpu", "cuda:x", "cuda:-1", ""):
        with pytest.raises(ArgumentError, match="device"):
            Engine(tiny_dir, device=name)


def test_G17_deadline_passes_in_the_queue(tiny_dir: Path) -> None:
    with Engine(tiny_dir, max_batch=1, max_seq_len=512, num_threads=1) as engine:
        engine.submit(IDS, max_new_tokens=400, ignore_eos=True)
        late = engine.submit(IDS, max_new_tokens=4, deadline_seconds=0.01)
        engine.step()
        time.sleep(0.02)
        events = [e for e in engine.step() if e.request == late]
        assert [e.finish_reason for e in events] == ["error"]
        assert isinstance(events[0].error, StateError)
        assert "deadline" in str(events[0].error)


@pytest.fixture(scope="module")
def broken_dir(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a NaN in the embedding of token 9."""
    place = tmp_path_factory.mktemp("broken")
    for path in tiny_dir.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    weights = place / "model.safetensors"
    info = SafetensorsFile(weights).find("model.embed_tokens.weight")
    assert info is not None
    assert info.dtype == "F32"
    raw = bytearray(weights.read_bytes())
    at = info.file_offset + 9 * info.shape[1] * 4
    raw[at : at + 4] = np.float32(np.nan).tobytes()
    weights.write_bytes(raw)
    return place


def test_L1_nan_ends_only_the_request_that_has_it(broken_dir: Path, engine: Engine) -> None:
    good, bad = [5, 6, 7], [5, 9, 7]
    with Engine(broken_dir, max_batch=4, num_threads=1, max_seq_len=4096) as broken:
        want = greedy(engine, good)
        out = broken.generate([good, bad, good], max_new_tokens=8, ignore_eos=True)
        assert [c.finish_reason for c in out] == ["length", "error", "length"]
        assert [c.token_ids for c in out] == [want, [], want]
        assert isinstance(out[1].error, NumericError)
        with pytest.raises(NumericError):
            broken.generate(bad, max_new_tokens=8)
        with pytest.raises(NumericError):
            list(broken.stream(bad, max_new_tokens=8))
        request = broken.submit(bad, max_new_tokens=8)
        events = broken.step()
        assert [(e.request, e.finish_reason) for e in events] == [(request, "error")]
        assert broken.memory.kv_cache == 0
        assert greedy(broken, good) == want


# --- opening


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_batch", -1),
        ("max_batch", 2**40),
        ("max_seq_len", -1),
        ("max_seq_len", 0),
        ("max_seq_len", 65537),
        ("num_threads", -1),
        ("num_threads", 0),
        ("num_threads", 10**6),
        ("prefill_chunk", 0),
        ("prefill_chunk", 2**40),
        ("kv_cache_bytes", 0),
        ("max_queue", -1),
        ("dtype", "int8"),
        ("dtype", 3),
        ("isa", "mmx"),
        ("max_batch", 2.0),
        ("max_batch", True),
        ("max_batch", 2**70),
    ],
    ids=repr,
)
def test_bad_engine_options(tiny_dir: Path, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        Engine(tiny_dir, **{name.replace("isa", "cpu_isa"): value})


def test_plans_that_do_not_fit(tiny_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="3"):
        Engine(tiny_dir, AttentionPlan.from_rules([[(0, 0.5)] * 2] * 3))
    config = ModelConfig.load(tiny_dir)
    other = AttentionPlan.uniform(config, 0.5)
    other.fingerprint = "0" * 64
    with pytest.raises(MismatchError, match="fingerprint"):
        Engine(tiny_dir, other)
    with Engine(tiny_dir, other, force_plan=True, num_threads=1) as engine:
        assert engine.plan == other
    path = tmp_path / "plan.json"
    plan = AttentionPlan.uniform(config, 0.5)
    plan.save(path)
    for given in (path, str(path)):
        with Engine(tiny_dir, given, num_threads=1) as engine:
            assert engine.plan == plan
    with pytest.raises(ArgumentError, match="plan"):
        Engine(tiny_dir, 3)  # type: ignore[arg-type]


def test_unfit_for_memory_says_the_missing_bytes(tiny_dir: Path) -> None:
    with Engine(tiny_dir, kv_cache_bytes=1 << 20, num_threads=1, max_seq_len=4096) as engine:
        with pytest.raises(ResourceError, match="missing"):
            engine.submit(IDS, max_new_tokens=4000)
        assert len(greedy(engine, IDS)) == 8


def test_E8_refusing_plan(tiny_dir: Path) -> None:
    plan = AttentionPlan.from_rules([[(0, 0.5)] * 2] * 2, min_length=256, max_length=1024)
    plan.out_of_range = "refuse"
    with Engine(tiny_dir, plan, max_seq_len=1024, num_threads=1) as engine:
        with pytest.raises(ArgumentError, match="256"):
            engine.generate(IDS, max_new_tokens=10)
        assert engine.generate(IDS, max_new_tokens=250, ignore_eos=True).completion_tokens == 250


def test_forced_instruction_set(tiny_dir: Path) -> None:
    with Engine(tiny_dir, cpu_isa="portable", num_threads=1) as engine:
        assert engine.options.cpu_isa == "portable"
        assert len(greedy(engine, IDS)) == 8
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512_bf16" not in flags:
        with pytest.raises(UnsupportedError, match="avx512_bf16"):
            Engine(tiny_dir, cpu_isa="avx512_bf16")


def test_options_come_back_resolved(engine: Engine) -> None:
    options = engine.options
    assert options.dtype == "float32"
    assert options.num_threads == 1
    assert options.max_seq_len == 4096
    assert options.plan == engine.plan
    assert engine.plan.density(1024) == 1.0
    assert os.cpu_count()
