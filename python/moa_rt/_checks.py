"""What must hold before the compiled part is used; imported first."""

from __future__ import annotations

import contextlib
import importlib
import sys

__version__ = "0.1.0"


def _refuse_subinterpreter() -> None:
    """Before 3.12 an extension cannot do it itself: it would wait for a lock for ever."""
    with contextlib.suppress(ModuleNotFoundError):
        module = importlib.import_module("_xxsubinterpreters")
        if module.get_current() != module.get_main():
            raise ImportError("moa_rt cannot be used in a subinterpreter")


if sys.version_info < (3, 12):
    _refuse_subinterpreter()

from moa_rt import _core  # noqa: E402

if _core.__version__ != __version__:
    raise ImportError(
        f"moa_rt {__version__} was installed over the compiled part of {_core.__version__}: "
        "install the package again"
    )
