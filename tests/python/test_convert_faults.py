"""Conversions that are killed, starved or raced: the output is whole or absent."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from moa_rt import ArgumentError, IoError, ResourceError, StateError
from support_models import make_tiny_model
from support_output import content, names, run, slow

FILES = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "hf", "llama")


def test_I7_equal_input_gives_equal_bytes(tiny: Path, tmp_path: Path) -> None:
    assert content(run(tiny, tmp_path / "a")) == content(run(tiny, tmp_path / "b"))


def test_I7_killed_at_any_moment(tiny: Path, tmp_path: Path) -> None:
    want = content(run(tiny, tmp_path / "want"))
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    rng = random.Random(0)
    for _ in range(4):
        process = slow(tiny, out)
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        process.communicate()
        assert not out.exists()
        assert names(out.parent) != []
    run(tiny, out)
    assert names(out.parent) == ["out"]
    assert content(out) == want


def test_I7_killed_between_the_two_renames(tiny: Path, tmp_path: Path) -> None:
    """The old model comes back, and a new run replaces it."""
    out = run(tiny, tmp_path / "out")
    before = content(out)
    out.rename(tmp_path / ".out.moa-convert-old-99999")
    with pytest.raises(ArgumentError, match="exists; --overwrite"):
        run(tiny, out)
    assert content(out) == before
    assert names(tmp_path) == ["out"]


def test_I8_second_converter_is_refused(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = slow(tiny, out)
    try:
        with pytest.raises(StateError, match=rf"locked by pid {process.pid}\b") as caught:
            run(tiny, out)
        assert caught.value.exit_code == 8
    finally:
        process.kill()
        process.communicate()
    assert names(run(tiny, out)) == FILES


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"]
)
def test_I14_signals(tiny: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    process = slow(tiny, place / "out")
    begin = time.monotonic()
    process.send_signal(number)
    error = process.communicate(timeout=10)[1]
    assert time.monotonic() - begin < 2
    assert process.returncode == status
    assert "Traceback" not in error
    assert names(place) == []


def test_I14_signal_keeps_the_old_output(tiny: Path, tmp_path: Path) -> None:
    out = run(tiny, tmp_path / "out")
    before = content(out)
    process = slow(tiny, out, "--overwrite", "--dtype", "bfloat16")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert content(out) == before
    assert names(tmp_path) == ["out"]


def test_I4_refused_up_front(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)

    class Full:
        f_frsize = real.f_frsize
        f_bavail = 10

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    free = 10 * real.f_frsize
    with pytest.raises(ResourceError, match=rf"disk space: got {free} bytes free, want \d+"):
        run(tiny, tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["write", "fsync", "close"])
def test_I4_disk_full_later(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    real: Callable[..., Any] = getattr(os, call)
    calls = 0

    def fail(descriptor: int, *rest: Any) -> Any:
        nonlocal calls
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if name.endswith("model.safetensors") and "moa-convert" in name:
            calls += 1
            if call != "write" or calls == 5:
                if call == "close":
                    real(descriptor)
                raise OSError(number, os.strerror(number))
        return real(descriptor, *rest)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ResourceError, match=os.strerror(number)):
        run(tiny, place / "out")
    monkeypatch.undo()
    assert names(place) == []


def test_I4_file_size_limit_in_earnest(tiny: Path, tmp_path: Path) -> None:
    """The kernel refuses the write: exit 6, nothing left."""
    place = tmp_path / "place"
    place.mkdir()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(
        [sys.executable, "-m", "moa_tools", "convert", str(tiny), str(place / "out")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6
    assert "moa-tools: error[E_RESOURCE]:" in done.stderr
    assert "File too large" in done.stderr
    assert names(place) == []


def test_I5_other_write_error_is_io(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, data: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(IoError, match="write at offset 0: Input/output error") as caught:
        run(tiny, tmp_path / "out")
    assert caught.value.errno == errno.EIO
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_I5_short_writes_are_continued(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = content(run(tiny, tmp_path / "want"))
    real = os.write
    monkeypatch.setattr(os, "write", lambda d, data: real(d, bytes(memoryview(data)[:10_007])))
    got = content(run(tiny, tmp_path / "got"))
    monkeypatch.undo()
    assert got == want


def test_I6_input_changes_during_conversion(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moa_tools.convert import numeric

    source = Path(shutil.copytree(tiny, tmp_path / "source"))
    add = numeric.Scan.add

    def touch(self: numeric.Scan, rows: Any) -> None:
        os.utime(source / "model.safetensors", ns=(1, 1))
        add(self, rows)

    monkeypatch.setattr(numeric.Scan, "add", touch)
    with pytest.raises(IoError, match="changed while it was read"):
        run(source, tmp_path / "out")
    assert names(tmp_path) == ["source"]


def test_I13_few_descriptors(tmp_path: Path) -> None:
    """Twenty shards with sixteen descriptors."""
    source = make_tiny_model(
        tmp_path / "source", "llama", num_hidden_layers=8, max_shard_size="250KB"
    )
    assert len(list(source.glob("*.safetensors"))) >= 20
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-m", "moa_tools", "convert", str(source), str(tmp_path / "out")],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
