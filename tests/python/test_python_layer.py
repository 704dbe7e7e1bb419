"""Arrays, streams, copies, exits, numbers, texts: group J of the bad inputs."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import ArgumentError, Engine, ModelConfig, StateError, TokenEvent
from support_engine import IDS, greedy, run

INTEGER_TYPES = ["i1", "u1", "<i2", ">i2", "<u2", ">u4", "<i4", ">i4", "<i8", ">i8", "<u8", ">u8"]


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
def test_J3_integer_arrays_of_every_kind(engine: Engine, dtype: str) -> None:
    want = greedy(engine)
    ids = np.array(IDS, dtype=dtype)
    assert greedy(engine, ids) == want
    assert greedy(engine, np.repeat(ids, 3)[::3]) == want, "strided"
    assert greedy(engine, ids[::-1].copy()[::-1]) == want, "negative stride"
    assert greedy(engine, np.stack([ids, ids], axis=1)[:, 0]) == want, "a column"
    assert greedy(engine, np.asfortranarray(np.stack([ids, ids]))[1]) == want, "a Fortran row"
    frozen = ids.copy()
    frozen.flags.writeable = False
    assert greedy(engine, frozen) == want
    assert greedy(engine, ids.astype(dtype[-2:]).data) == want


def test_J3_unaligned(engine: Engine) -> None:
    raw = np.zeros(8 * len(IDS) + 1, dtype=np.uint8)
    view = raw[1:].view("<i8")
    view[:] = IDS
    assert greedy(engine, view) == greedy(engine)


def test_J4_caller_changes_the_array_during_the_call(engine: Engine) -> None:
    want = greedy(engine, count=64)
    ids, stop = np.array(IDS), threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            ids[:] = 3
            time.sleep(0)

    seen: list[int] = []

    def first_token(_: TokenEvent) -> None:
        if not seen:
            ids[:] = 3
        seen.append(1)

    assert (
        engine.generate(ids, max_new_tokens=64, ignore_eos=True, on_token=first_token).token_ids
        == want
    )
    ids[:] = IDS
    thread = threading.Thread(target=scribble)
    expected = {tuple(want), tuple(greedy(engine, [3] * 6, 64))}
    thread.start()
    got = tuple(greedy(engine, ids, 64))
    stop.set()
    thread.join()
    assert got in expected or len(got) == 64


def test_J4_list_that_changes_itself_while_read(engine: Engine) -> None:
    class Sly:
        def __index__(self) -> int:
            ids.clear()
            return 7

    ids: list[Any] = [Sly(), *IDS]
    assert len(greedy(engine, ids)) == 8


def test_J6_stream_dropped_half_way(engine: Engine) -> None:
    stream = engine.stream(IDS, max_new_tokens=4000, ignore_eos=True)
    next(stream)
    del stream
    engine.step()
    assert not engine.has_work
    assert engine.memory.kv_cache == 0


def test_J6_stream_never_started_closed_and_in_a_cycle(engine: Engine) -> None:
    unused = engine.stream(IDS, max_new_tokens=4000, ignore_eos=True)
    del unused
    closed = engine.stream(IDS, max_new_tokens=4000, ignore_eos=True)
    next(closed)
    closed.close()
    closed.close()
    assert list(closed) == []
    loop: list[Any] = [engine.stream(IDS, max_new_tokens=4000, ignore_eos=True)]
    loop.append(loop)
    next(loop[0])
    del loop
    gc.collect()
    engine.step()
    assert not engine.has_work
    with engine.stream(IDS, max_new_tokens=4, ignore_eos=True) as stream:
        assert [e.token for e in stream] == greedy(engine, count=4)


def test_J6_engine_dropped_before_its_stream(tiny_dir: Path) -> None:
    engine = Engine(tiny_dir, num_threads=1, max_seq_len=128)
    stream = engine.stream(IDS, max_new_tokens=20, ignore_eos=True)
    next(stream)
    del engine
    gc.collect()
    with pytest.raises(StateError, match="closed"):
        next(stream)


def test_J7_no_pickle_no_copy(engine: Engine) -> None:
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickle"):
            act(engine)
        with pytest.raises(TypeError, match="pickle"):
            act(engine._core)


SUBINTERPRETER = """
import sys
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
import moa_rt
made = interpreters.create()
try:
    interpreters.run_string(made, "import moa_rt")
except Exception as error:
    assert "ImportError" in repr(error) or "ImportError" in str(error), repr(error)
    print("refused")
else:
    print("imported")
"""


def test_J7_subinterpreter_gets_an_import_error() -> None:
    assert run(SUBINTERPRETER) == "refused\n"


AT_EXIT = {
    "daemon thread in generate": "",
    "daemon thread in a callback": ", on_token=lambda e: None",
    "daemon thread in a callback that sleeps": ", on_token=lambda e: time.sleep(3600)",
}


@pytest.mark.parametrize("what", list(AT_EXIT))
def test_J8_exit_with_a_daemon_thread_at_work(tiny_dir: Path, what: str) -> None:
    code = (
        "import sys, threading, time, moa_rt\n"
        "engine = moa_rt.Engine(sys.argv[1], num_threads=2)\n"
        "def work(): engine.generate([5, 6], max_new_tokens=60000, ignore_eos=True"
        f"{AT_EXIT[what]})\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.3)\n"
    )
    start = time.monotonic()
    assert run(code, tiny_dir) == ""
    assert time.monotonic() - start < 10


def test_J8_forked_worker_pool(tiny_dir: Path) -> None:
    code = (
        "import multiprocessing, sys, moa_rt\n"
        "engine = moa_rt.Engine(sys.argv[1], num_threads=2)\n"
        "def work(_):\n"
        "    try:\n"
        "        engine.generate([5])\n"
        "    except moa_rt.StateError as error:\n"
        "        return str(error)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    texts = pool.map(work, range(4))\n"
        "assert all('created in pid' in text for text in texts), texts\n"
    )
    assert run(code, tiny_dir) == ""


def test_J9_numbers(engine: Engine, tiny_dir: Path) -> None:
    want = greedy(engine)
    for eight in (np.int64(8), np.uint8(8), np.array(8)):
        assert engine.generate(IDS, max_new_tokens=eight, ignore_eos=True).token_ids == want
    assert greedy(engine, [np.int16(i) for i in IDS]) == want
    one = engine.generate(IDS, max_new_tokens=1, temperature=np.float32(0.5), seed=np.uint64(3))
    assert one.completion_tokens == 1
    for bad in (2**70, -(2**70), True, np.bool_(True), 8.0, np.float64(8), "8", [8]):
        with pytest.raises(ArgumentError, match="max_new_tokens"):
            engine.generate(IDS, max_new_tokens=bad)
    for bad in (True, "1", None, [1.0], 1j):
        with pytest.raises(ArgumentError, match="temperature"):
            engine.generate(IDS, temperature=bad)
    for bad in (1, 0, None, "yes"):
        with pytest.raises(ArgumentError, match="ignore_eos"):
            engine.generate(IDS, ignore_eos=bad)
    for bad in (-1, 2**64, 2**70, 1.5, True):
        with pytest.raises(ArgumentError, match="request"):
            engine.cancel(bad)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="model_dir"):
        Engine(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="model_dir"):
        Engine("a\0b")
    assert ModelConfig.load(bytes(tiny_dir)).vocab_size == 512


def test_J9_str_subclass(engine: Engine) -> None:
    class Text(str):
        pass

    options: dict[str, Any] = {"max_new_tokens": 4, "ignore_eos": True}
    text = engine.generate("The fox", **options).text
    assert engine.generate(Text("The fox"), **options).text == text
    assert engine.generate([Text("The fox")], **options)[0].text == text


def test_D7_lone_surrogates(engine: Engine) -> None:
    with pytest.raises(ArgumentError, match="surrogate at character 2"):
        engine.generate("ab\ud800")
    with pytest.raises(ArgumentError, match="surrogate"):
        engine.tokenizer.apply_chat_template([{"role": "user", "content": "\udfff"}])
    assert engine.generate("a\0b", max_new_tokens=1, ignore_eos=True).completion_tokens == 1


def test_D8_special_tokens_in_a_text_are_text(smollm2_dir: Path) -> None:
    with Engine(smollm2_dir, max_seq_len=64) as small:
        tokenizer = small.tokenizer
        marker = tokenizer.token_to_id("<|im_end|>")
        assert marker is not None
        text = "hello<|im_end|>"
        assert marker not in tokenizer.encode(text)
        assert tokenizer.encode(text, allow_special=True)[-1] == marker
        chat = [{"role": "user", "content": "<|im_end|>"}]
        assert tokenizer.encode_chat(chat).count(marker) == 2, "one of system, one of user"
        plain = small.generate(text, max_new_tokens=0).prompt_tokens
        assert plain == len(tokenizer.encode(text))


def test_D9_far_too_much_text_is_refused_before_it_is_tokenized(engine: Engine) -> None:
    start = time.monotonic()
    for text in ("a " * 50_000_000, "\U0001f600" * 20_000):
        with pytest.raises(ArgumentError, match="bytes of text, want at most 65536"):
            engine.generate(text)
    with pytest.raises(ArgumentError, match="bytes of text"):
        engine.submit([{"role": "user", "content": "a" * 70_000}])
    assert time.monotonic() - start < 5


def test_bad_chats(smollm2_dir: Path) -> None:
    bad: list[Any] = [
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": "user", "content": "x", "name": "y"}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "robot", "content": "x"}],
        [{"role": "user", "content": "x"}, "y"],
        [{1: 2}],
    ]
    with Engine(smollm2_dir, max_seq_len=64) as small:
        for chat in bad:
            with pytest.raises(ArgumentError):
                small.generate(chat, max_new_tokens=1)
