"""A directory that appears whole or not at all.

Work happens in `.<name>.moa-convert-<pid>` beside the target, under an flock on
`.<name>.moa-convert.lock`. A killed run leaves only that directory and the lock file (its lock dies
with it); the next run removes the one and reuses the other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from types import TracebackType

from moa_rt import ArgumentError, IoError, StateError

from moa_tools.files import io_errors

_MARK = "moa-convert"
_MAX_PATH = 4096
MANIFEST = "manifest.json"


def check_target(target: Path, sources: list[Path]) -> None:
    """Refuses a target that cannot or must not be written (I9). Raises ArgumentError or IoError."""
    text = os.fspath(target)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentError(f"OUT: {text!r}: the path is not UTF-8") from error
    if len(os.fsencode(target.absolute())) >= _MAX_PATH:
        raise ArgumentError(
            f"OUT: the path has {len(text)} characters, want fewer than {_MAX_PATH}"
        )
    if target.name in ("", ".", ".."):
        raise ArgumentError(f"OUT: {text!r}: want the name of a directory to make")
    parent = target.absolute().parent
    with io_errors(parent, "OUT: parent directory"):
        if not stat.S_ISDIR(parent.stat().st_mode):
            raise IoError(errno.ENOTDIR, f"{parent}: OUT: parent is not a directory", str(parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise IoError(errno.EACCES, f"{parent}: OUT: parent directory: Permission denied", text)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArgumentError(f"OUT: {text!r}: exists and is not a directory")
    place = target.resolve()
    for source in sources:
        resolved = source.resolve()
        if place == resolved or place in resolved.parents:
            raise ArgumentError(f"OUT: {text!r}: is, or holds, the source {str(source)!r}")


def _sync_directory(path: Path) -> None:
    with io_errors(path, "sync"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Lock:
    """An exclusive flock on a file that holds the owner's process id."""

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        while True:
            with io_errors(path, "lock"):
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                raise StateError(
                    f"{target}: locked by pid {owner or '?'}: another conversion is writing it"
                ) from error
            if self._is_current():
                break
            os.close(self._descriptor)
        with io_errors(path, "lock"):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _is_current(self) -> bool:
        """Whether the locked file still has that name: its last owner may have removed it."""
        try:
            named, held = self._path.stat(), os.fstat(self._descriptor)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class OutputDirectory:
    """Context manager around the making of `target`; without `commit()` nothing remains.

    Raises StateError "locked by pid P" if another conversion holds the target (I8) and
    ArgumentError if it exists and `overwrite` is not set, or is not a converted model (I10).
    """

    def __init__(self, target: Path, overwrite: bool) -> None:
        self.target = target.absolute()
        self._overwrite = overwrite
        self._prefix = f".{self.target.name}.{_MARK}"
        parent = self.target.parent
        self.path = parent / f"{self._prefix}-{os.getpid()}"
        self._old = parent / f"{self._prefix}-old-{os.getpid()}"
        self._lock: _Lock | None = None

    def __enter__(self) -> OutputDirectory:
        self._lock = _Lock(self.target.parent / f"{self._prefix}.lock", self.target)
        try:
            self._recover()
            self._check_existing()
            with io_errors(self.path, "create"):
                self.path.mkdir(mode=0o755)
        except BaseException:
            self._lock.release()
            raise
        return self

    def _recover(self) -> None:
        """Cleans up after a run that died: the lock is ours, so no other one is alive (I7)."""
        for left in sorted(self.target.parent.glob(f"{self._prefix}-*")):
            old = left.name.startswith(f"{self._prefix}-old-")
            if old and not self.target.exists():
                with io_errors(left, "restore"):
                    left.rename(self.target)  # died between the two renames of a replacement
            else:
                with io_errors(left, "remove"):
                    shutil.rmtree(left)

    def _check_existing(self) -> None:
        if not self.target.exists():
            return
        entries = [entry.name for entry in self.target.iterdir()]
        if not entries:
            return
        if not self._overwrite:
            raise ArgumentError(f"OUT: {str(self.target)!r}: exists; --overwrite replaces it")
        if MANIFEST not in entries:
            raise ArgumentError(
                f"OUT: {str(self.target)!r}: is not a converted model (no {MANIFEST}); it is not "
                "replaced"
            )

    def write(self, name: str, data: bytes) -> None:
        """Writes and syncs one file of the directory."""
        path = self.path / name
        with io_errors(path, f"write {len(data)} bytes"):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def commit(self) -> None:
        """Makes the directory the target. The old target is removed last."""
        _sync_directory(self.path)
        with io_errors(self.target, "rename"):
            if self.target.exists():
                self.target.rename(self._old)
                try:
                    self.path.rename(self.target)
                except BaseException:
                    self._old.rename(self.target)
                    raise
            else:
                self.path.rename(self.target)
        _sync_directory(self.target.parent)
        if self._old.exists():
            with io_errors(self._old, "remove"):
                shutil.rmtree(self._old)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
