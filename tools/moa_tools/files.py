"""Opening files that may be hostile, and errors that name the path."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from moa_rt import ArgumentError, FormatError, IoError, ResourceError

# What a disk that cannot take more answers.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


def translate(error: OSError, path: str | os.PathLike[str], doing: str) -> Exception:
    """The moa_rt error for an OSError: ResourceError for a full disk, else IoError with errno."""
    if isinstance(error, (IoError, ResourceError)):
        return error
    text = f"{os.fspath(path)}: {doing}: {os.strerror(error.errno or 0)}"
    if error.errno in _FULL or error.errno in _NO_DESCRIPTORS:
        return ResourceError(text)
    return IoError(error.errno or 0, text, os.fspath(path))


@contextmanager
def io_errors(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turns an OSError inside into IoError or ResourceError with path and cause."""
    try:
        yield
    except OSError as error:
        raise translate(error, path, doing) from error


class RegularFile:
    """A regular file open for reading by offset. A FIFO or device is refused, never waited for."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with io_errors(self.path, "open"):
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise IoError(errno.EINVAL, f"{self.path}: not a regular file", self.path)
        self.size = status.st_size
        self.modified_ns = status.st_mtime_ns

    def read_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`. Raises IoError if the file is shorter."""
        parts: list[bytes] = []
        with io_errors(self.path, "read"):
            while size > 0:
                part = os.pread(self._descriptor, size, offset)
                if not part:
                    raise IoError(
                        errno.EIO, f"{self.path}: offset {offset}: file ends early", self.path
                    )
                parts.append(part)
                offset += len(part)
                size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def check_unchanged(self) -> None:
        """Raises IoError if size or modification time changed since the file was opened."""
        with io_errors(self.path, "stat"):
            status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified_ns):
            raise IoError(errno.EIO, f"{self.path}: changed while it was read", self.path)

    def close(self) -> None:
        """Releases the descriptor; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RegularFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_bounded(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The whole of a regular file. Raises FormatError if it is larger than `max_bytes`."""
    with RegularFile(path) as file:
        if file.size > max_bytes:
            raise FormatError(f"{file.path}: size: got {file.size} bytes, want at most {max_bytes}")
        return file.read_at(0, file.size)


def check_magic(path: str | os.PathLike[str]) -> None:
    """Raises FormatError with a hint for what is often saved in place of weights (B12)."""
    with RegularFile(path) as file:
        start = file.read_at(0, min(file.size, 256))
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise FormatError(
            f"{file.path}: this is a Git LFS pointer, not the file itself; run `git lfs pull`"
        )
    head = start.lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise FormatError(f"{file.path}: this looks like HTML, probably a saved error page")


def check_file_target(path: Path) -> None:
    """Refuses, before the work, a path that `write_atomic` could not or must not write.

    Raises ArgumentError for a directory or a device, IoError for a name that cannot be and for a
    directory to write in that is not there or takes no files.
    """
    text = os.fspath(path)
    with io_errors(path, "output"):
        directory = path.is_dir()
        other = path.exists() and not path.is_file()
    if directory:
        raise ArgumentError(f"output: got {text!r}, a directory, want the name of a file")
    if other:
        raise ArgumentError(f"output: got {text!r}, not a regular file, want the name of one")
    parent = path.absolute().parent
    with io_errors(parent, "output: parent directory"):
        if not stat.S_ISDIR(parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all: temporary name beside it, sync, rename.

    Raises ResourceError (disk full) or IoError; a file of that name that was there stays as it was.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        with io_errors(final, f"write {len(data)} bytes"):
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
