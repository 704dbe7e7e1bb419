"""The package's version, checked against that of its compiled part."""

from __future__ import annotations

from moa_rt import _core

__version__ = "0.1.0"

if _core.__version__ != __version__:
    raise ImportError(
        f"moa_rt {__version__} was installed over the compiled part of {_core.__version__}: "
        "install the package again"
    )
