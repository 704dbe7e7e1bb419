"""The shape of the source tree: who may include whom, and what no file may contain."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "cpp" / "src"
INCLUDE = ROOT / "cpp" / "include"

# What each folder of cpp/src may include, besides itself and the public headers. A name with a
# slash is one header: a backend implements ops/backend.h, names what is wrong with logits as
# everybody does, and knows nothing else of ops.
BELOW_OPS = {"core", "plan", "cache"}
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "io": {"core"},
    "plan": {"core", "io"},
    "cache": {"core", "plan"},
    "text": {"core", "io"},
    "ops": BELOW_OPS,
    "cpu": BELOW_OPS | {"ops/backend.h", "ops/logit_fault.h"},
    "model": BELOW_OPS | {"io", "ops"},
    "runtime": BELOW_OPS | {"io", "ops", "model", "text"},
    "bindings": BELOW_OPS | {"io", "ops", "model", "text", "runtime"},
    "cli": set(),
}
CUDA_ALLOWED = BELOW_OPS | {"ops"}
STANDARD_HEADER = re.compile(r"[a-z_0-9]+")
CPP_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
MAX_LINES = 400
MAX_TEST_LINES = 750  # a table of cases may be long

Includes = list[tuple[str, bool]]  # (path, written in quotes)


def code_of(text: str) -> str:
    """C++ without its comments and without the insides of its string literals."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda m: '""' if m[0][0] == '"' else " ", text, flags=re.DOTALL)


def includes_of(text: str) -> Includes:
    found = re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', text, flags=re.MULTILINE)
    return [(path, mark == '"') for mark, path in found]


def upward(folder: str, allowed: set[str], includes: Includes) -> list[str]:
    """The quoted includes of a file in `folder` that point up or sideways."""
    wrong = []
    for path, quoted in includes:
        top = path.split("/")[0]
        if quoted and top not in {folder, "moa_rt"} | allowed and path not in allowed:
            wrong.append(path)
    return wrong


def sources(*folders: Path, suffixes: set[str] = CPP_SUFFIXES) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    )


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> set[str]:
    """Full names of every module that a Python file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def test_the_rules_see_what_they_forbid() -> None:
    text = '#include <vector>\n#include "model/decoder.h"\n  # include "core/json.h"\n'
    assert includes_of(text) == [
        ("vector", False),
        ("model/decoder.h", True),
        ("core/json.h", True),
    ]
    assert upward("ops", ALLOWED["ops"], includes_of(text)) == ["model/decoder.h"]
    assert upward("cpu", ALLOWED["cpu"], [("ops/backend.h", True), ("ops/ops.h", True)]) == [
        "ops/ops.h"
    ]
    assert code_of('a /* getenv */ "getenv" // getenv\nb') == 'a   ""  \nb'


def test_every_source_folder_has_a_rule() -> None:
    assert {path.name for path in SRC.iterdir() if path.is_dir()} == set(ALLOWED)


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_includes_point_down(folder: str) -> None:
    for path in sources(SRC / folder):
        assert upward(folder, ALLOWED[folder], includes_of(path.read_text())) == [], ids(path)


def test_cuda_includes_only_the_shared_lower_layers() -> None:
    for path in sources(ROOT / "cuda"):
        bench = {"model"} if path.parent.name == "bench" else set()  # programs, not the library
        assert upward("cuda", CUDA_ALLOWED | bench, includes_of(path.read_text())) == [], ids(path)


def test_cpp_never_includes_cuda() -> None:
    for path in sources(ROOT / "cpp"):
        names = [name for name, _ in includes_of(path.read_text())]
        assert not [name for name in names if re.match(r"cu(da|blas|b/|tlass|te/)|nccl", name)], (
            path
        )


@pytest.mark.parametrize("header", sources(INCLUDE), ids=ids)
def test_public_headers_need_only_the_standard_library(header: Path) -> None:
    for path, quoted in includes_of(header.read_text()):
        if quoted:
            assert (INCLUDE / path).is_file(), f"{path} is not a public header"
        else:
            assert STANDARD_HEADER.fullmatch(path), f"<{path}> is not the standard library's"


@pytest.mark.parametrize(
    ("why", "pattern"),
    [
        ("the environment changes nothing", r"\b(secure_)?getenv\b|\bsetenv\b"),
        (
            "the library never prints",
            r"\bf?printf\s*\(|\bputs\s*\(|std::c(out|err|log)\b|\bperror\b",
        ),
        ("the library never ends the process", r"\babort\s*\(|\b_?exit\s*\(|\bassert\s*\("),
        ("std::regex overflows the stack on long input", r"std::regex|#\s*include\s*<regex>"),
        ("alloca overflows the stack", r"\balloca\s*\("),
        ("several engines live in one process", r"\bthread_local\b"),
    ],
)
def test_the_library_never_contains(why: str, pattern: str) -> None:
    library = [SRC / name for name in ALLOWED if name != "cli"]
    for path in sources(INCLUDE, ROOT / "cuda", *library):
        if "bench" in path.relative_to(ROOT).parts:
            continue
        found = re.search(pattern, code_of(path.read_text()))
        assert found is None, f"{ids(path)}: {found[0]}: {why}"


def test_no_file_is_too_long() -> None:
    folders = [ROOT / name for name in ("cpp", "cuda", "python", "tools", "tests", "third_party")]
    suffixes = CPP_SUFFIXES | {".py", ".sh", ".cmake"}
    for path in sources(*folders, suffixes=suffixes):
        limit = MAX_TEST_LINES if "tests" in path.relative_to(ROOT).parts else MAX_LINES
        assert path.read_text().count("\n") <= limit, ids(path)


def test_the_package_imports_nothing_but_numpy() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "moa_rt"}
    for path in sources(ROOT / "python", suffixes={".py", ".pyi"}):
        assert {name.split(".")[0] for name in imports_of(path)} <= allowed, ids(path)


def test_conversion_and_plans_need_no_torch() -> None:
    light = set(sys.stdlib_module_names) | {"gguf", "moa_rt", "moa_tools", "numpy", "rich", "typer"}
    light |= {"matplotlib"}  # imported where a plot is drawn
    tools = ROOT / "tools" / "moa_tools"
    for path in sources(tools / "convert", tools / "plan", suffixes={".py"}):
        assert {name.split(".")[0] for name in imports_of(path)} <= light, ids(path)


def test_tools_know_the_package_and_not_its_insides() -> None:
    for path in sources(ROOT / "tools" / "moa_tools", suffixes={".py"}):
        private = [name for name in imports_of(path) if re.match(r"moa_rt\._|tests\b", name)]
        assert private == [], ids(path)
