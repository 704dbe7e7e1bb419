"""An outside CMake project finds the installed package, static and shared, and generates tokens."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support_cli import MODEL, ROOT

BUILDS = {
    "static": ("-B", "build/cpu", "--preset", "cpu"),
    "shared": ("-B", "build/shared", "--preset", "cpu", "-DBUILD_SHARED_LIBS=ON"),
}


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", params=sorted(BUILDS))
def prefix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed tree."""
    flags = BUILDS[request.param]
    target = tmp_path_factory.mktemp(request.param)
    if request.param == "shared":
        flags = (*flags, "-DMOA_RT_BUILD_TESTS=OFF")
    run("cmake", *flags)
    run("cmake", "--build", flags[1], "--target", "moa_rt", "moa-rt")
    run("cmake", "--install", flags[1], "--prefix", target)
    return target


def test_outside_project_generates_four_tokens(prefix: Path, tmp_path: Path) -> None:
    import moa_rt as package

    run("cmake", "-S", ROOT / "tests" / "embed", "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path)
    lines = run(tmp_path / "embed", MODEL).splitlines()
    with package.Engine(str(MODEL), max_seq_len=64) as engine:
        wanted = engine.generate([[1, 2, 3]], max_new_tokens=4, ignore_eos=True)[0].token_ids
    assert lines == [" ".join(str(token) for token in wanted) + " length"] * 2  # both plans: dense


def test_installed_tree_stands_alone(prefix: Path) -> None:
    assert run(prefix / "bin" / "moa-rt", "--version") == "moa-rt 0.1.0\n"
    for path in prefix.rglob("*.cmake"):
        assert str(ROOT) not in path.read_text(), path
    installed = {path.name for path in (prefix / "include" / "moa_rt").iterdir()}
    assert installed == {path.name for path in (ROOT / "cpp/include/moa_rt").iterdir()}
