"""The errors of moa_rt: one class per cause.

Every class carries ``code`` (``"E_FORMAT"`` and so on, as the command line prints it) and
``exit_code`` (the command line's exit status). Messages say file, item, field, got and want.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArgumentError",
    "BusyError",
    "DeviceError",
    "Error",
    "FormatError",
    "InternalError",
    "IoError",
    "MismatchError",
    "NumericError",
    "ResourceError",
    "StateError",
    "UnsupportedError",
]


class Error(Exception):
    """Base of everything moa_rt raises."""

    code: ClassVar[str] = "E_INTERNAL"
    exit_code: ClassVar[int] = 70


class ArgumentError(Error, ValueError):
    """The caller passed a bad value."""

    code = "E_ARG"
    exit_code = 2


class FormatError(Error, ValueError):
    """A file breaks its own format."""

    code = "E_FORMAT"
    exit_code = 3


class UnsupportedError(Error, NotImplementedError):
    """Legal, but not implemented here."""

    code = "E_UNSUPPORTED"
    exit_code = 4


class MismatchError(Error, ValueError):
    """Two good inputs disagree."""

    code = "E_MISMATCH"
    exit_code = 5


class ResourceError(Error, MemoryError):
    """Memory, disk or descriptors are short."""

    code = "E_RESOURCE"
    exit_code = 6


class IoError(Error, OSError):
    """A read or write failed. Has ``errno`` and ``filename``, as every OSError."""

    code = "E_IO"
    exit_code = 7

    def __str__(self) -> str:
        """The message alone: it names the file already."""
        return str(self.strerror)


class StateError(Error, RuntimeError):
    """Closed, busy, forked or cancelled."""

    code = "E_STATE"
    exit_code = 8


class NumericError(Error, ArithmeticError):
    """NaN or infinity where a number is needed."""

    code = "E_NUMERIC"
    exit_code = 9


class DeviceError(Error, RuntimeError):
    """The accelerator is missing or lost."""

    code = "E_DEVICE"
    exit_code = 10


class BusyError(Error, RuntimeError):
    """Capacity or queue is full."""

    code = "E_BUSY"
    exit_code = 11


class InternalError(Error):
    """A broken invariant: a bug of moa_rt."""
