"""The package as it is installed: version, names, stub, errors, what it imports."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import moa_rt
import pytest
from moa_rt import _core, errors

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "python" / "moa_rt" / "_core.pyi"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_version_everywhere() -> None:
    version = moa_rt.__version__
    assert _core.__version__ == version
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    assert f"project(moa_rt VERSION {version} " in (ROOT / "CMakeLists.txt").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_J10_mixed_versions_are_an_import_error() -> None:
    out = python(
        "import sys, types\n"
        "core = types.ModuleType('moa_rt._core'); core.__version__ = '9.9.9'\n"
        "sys.modules['moa_rt._core'] = core\n"
        "try:\n    import moa_rt\n"
        "except ImportError as error:\n    print(error)\n"
    )
    assert "9.9.9" in out
    assert moa_rt.__version__ in out


def test_imports_numpy_and_nothing_heavy() -> None:
    out = python("import moa_rt, sys; print(*sorted({n.split('.')[0] for n in sys.modules}))")
    loaded = set(out.split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers", "safetensors", "gguf", "moa_tools"}


def test_all_is_complete_and_sorted() -> None:
    public = {
        name
        for name, value in vars(moa_rt).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert set(moa_rt.__all__) == public | {"__version__"}
    for name in moa_rt.__all__:
        value = getattr(moa_rt, name)
        assert name.isupper() or name == "__version__" or value.__doc__, name


def test_public_members_have_docstrings() -> None:
    for cls in (moa_rt.Engine, moa_rt.Session, moa_rt.Stream):
        for name, member in vars(cls).items():
            if not name.startswith("_"):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"


# --- the stub


def test_stub_is_what_the_extension_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "moa_rt._core"],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def stub_arguments() -> dict[str, list[str]]:
    """Names of the arguments of every function of the stub, "*" where keywords begin."""
    found: dict[str, list[str]] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body, node.name + ".")
            elif isinstance(node, ast.FunctionDef):
                marks = {d.id for d in node.decorator_list if isinstance(d, ast.Name)}
                if "property" in marks or len(marks) < len(node.decorator_list):
                    continue
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                if prefix and "staticmethod" not in marks:
                    names = names[1:]
                if node.args.kwonlyargs:
                    names += ["*", *(a.arg for a in node.args.kwonlyargs)]
                if node.args.kwarg:
                    names.append("**")
                found[prefix + node.name] = names

    visit(ast.parse(STUB.read_text()).body, "")
    return found


def runtime_arguments(function: Any) -> list[str]:
    """The same from the first line of a docstring of pybind11."""
    line = function.__doc__.splitlines()[0]
    inside = line[line.index("(") + 1 : line.rindex(") ->")]
    inside = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", inside))
    names = [part.split(":")[0].split("=")[0].strip() for part in inside.split(",")]
    names = ["**" if n.startswith("**") else n for n in names if n]
    return names[1:] if names[:1] == ["self"] else names


def test_stub_has_the_argument_names_of_the_extension() -> None:
    """stubtest cannot see the signatures of compiled functions; their docstrings tell them."""
    checked = 0
    for name, want in stub_arguments().items():
        target: Any = _core
        for part in name.split("."):
            target = getattr(target, part)
        if name.split(".")[-1].startswith("__") and not name.endswith("__init__"):
            continue
        assert runtime_arguments(target) == want, name
        checked += 1
    assert checked > 50


@pytest.mark.parametrize("cls", [moa_rt.EngineOptions, moa_rt.RequestOptions])
def test_stub_has_the_fields_of_the_options(cls: Any) -> None:
    tree = ast.parse(STUB.read_text())
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    fields = [n.target.id for n in body if isinstance(n, ast.AnnAssign)]  # type: ignore[union-attr]
    assert fields == ["FIELDS", *cls.FIELDS]
    text = repr(cls())
    assert all(f"{field}=" in text for field in cls.FIELDS)
    assert {f: getattr(cls(), f) for f in cls.FIELDS} == {
        f: getattr(cls(**{f: getattr(cls(), f) for f in cls.FIELDS}), f) for f in cls.FIELDS
    }


# --- errors

CLASSES = {
    "ArgumentError": (ValueError, "E_ARG", 2),
    "FormatError": (ValueError, "E_FORMAT", 3),
    "UnsupportedError": (NotImplementedError, "E_UNSUPPORTED", 4),
    "MismatchError": (ValueError, "E_MISMATCH", 5),
    "ResourceError": (MemoryError, "E_RESOURCE", 6),
    "IoError": (OSError, "E_IO", 7),
    "StateError": (RuntimeError, "E_STATE", 8),
    "NumericError": (ArithmeticError, "E_NUMERIC", 9),
    "DeviceError": (RuntimeError, "E_DEVICE", 10),
    "BusyError": (RuntimeError, "E_BUSY", 11),
    "InternalError": (Exception, "E_INTERNAL", 70),
}


@pytest.mark.parametrize("name", list(CLASSES))
def test_error_classes(name: str) -> None:
    base, code, status = CLASSES[name]
    cls = getattr(moa_rt, name)
    assert issubclass(cls, moa_rt.Error)
    assert issubclass(cls, base)
    assert (cls.code, cls.exit_code) == (code, status)
    assert set(errors.__all__) == {*CLASSES, "Error"}


def test_io_error_has_errno_and_filename(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(OSError, match="No such file") as caught:
        moa_rt.AttentionPlan.load(missing)
    assert isinstance(caught.value, moa_rt.IoError)
    assert caught.value.errno == 2
    assert caught.value.filename == str(missing)
    assert str(caught.value).count(str(missing)) == 1
    with pytest.raises(moa_rt.IoError) as caught:
        moa_rt.AttentionPlan.load(tmp_path)
    assert caught.value.errno == 21


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/pl\xff"
    with pytest.raises(moa_rt.IoError) as caught:
        moa_rt.AttentionPlan.load(path)
    assert os.fsencode(caught.value.filename) == path
    text = b'{"version": 1, "x": "\xff"}'
    Path(os.fsdecode(path)).write_bytes(text)
    with pytest.raises(moa_rt.FormatError):
        moa_rt.AttentionPlan.load(path)


def test_tools_without_their_extra_say_what_to_install() -> None:
    out = python(
        "import sys\n"
        "sys.modules['typer'] = None\n"
        "from moa_tools.__main__ import main\n"
        "sys.stderr = sys.stdout\n"
        "print(main())\n"
    )
    assert "error[E_UNSUPPORTED]: typer is not installed" in out
    assert "moa_rt[convert]" in out
    assert out.endswith("4\n")
