"""Forks, exits, devices, deadlines, NaN: rows G12 to G17 and L1 of the bad inputs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from moa_rt import (
    ArgumentError,
    DeviceError,
    Engine,
    NumericError,
    StateError,
)
from moa_rt._core import SafetensorsFile
from support_engine import IDS, greedy, run

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


def test_G12_forked_child(tiny_dir: Path) -> None:
    assert run(FORK, tiny_dir) == "parent fine\n"


SPAWN = """
import multiprocessing, sys, moa_rt
def work(directory, queue):
    with moa_rt.Engine(directory, num_threads=1, max_seq_len=128) as engine:
        queue.put(engine.generate([5, 6], max_new_tokens=2, ignore_eos=True).token_ids)
"""


def test_G12_spawned_child_makes_its_own(
    tiny_dir: Path, tmp_path: Path, cpu_engine: Engine
) -> None:
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
    assert run(code, tiny_dir) == f"{greedy(cpu_engine, [5, 6], 2)}\n"


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
    with pytest.raises(DeviceError, match=r"cuda:1000"):
        Engine(tiny_dir, device="cuda:1000")
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


def test_L1_nan_ends_only_the_request_that_has_it(broken_dir: Path, cpu_engine: Engine) -> None:
    good, bad = [5, 6, 7], [5, 9, 7]
    with Engine(broken_dir, max_batch=4, num_threads=1, max_seq_len=4096) as broken:
        want = greedy(cpu_engine, good)
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
