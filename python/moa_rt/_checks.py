"""What must hold before the compiled part is used; imported first."""

from __future__ import annotations

import sys

__version__ = "0.1.0"

# Before 3.12 an extension cannot refuse a subinterpreter itself: it would wait for a lock for ever.
if sys.version_info < (3, 12):
    import _xxsubinterpreters

    if _xxsubinterpreters.get_current() != _xxsubinterpreters.get_main():
        raise ImportError("moa_rt cannot be used in a subinterpreter")

from moa_rt import _core

if _core.__version__ != __version__:
    raise ImportError(
        f"moa_rt {__version__} was installed over the compiled part of {_core.__version__}: "
        "install the package again"
    )
