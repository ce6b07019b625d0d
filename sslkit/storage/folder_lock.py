"""One process at a time in a run's folder."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sslkit.contract.errors import ArtifactError, RunFailedError
from sslkit.storage.json_files import read_json, write_json

LOCK, OWNER = ".lock", ".owner.json"


class RunLock:
    """The claim of this process on a run's folder, which must exist.

    The system releases it when the process ends, however it ends, so that nothing needs to be cleaned up after a crash.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LOCK
        self._lock = FileLock(self._path)
        self._identity: tuple[int, int] | None = None

    def check(self) -> None:
        """Make sure that the folder is still the one that was claimed: it may have been removed, moved, or replaced by another."""
        if _identity(self._path) != self._identity:
            raise RunFailedError(
                f"{self._folder}: this folder was removed or replaced while the run was in it", fix="put it back, or run the recipe again"
            )

    @contextmanager
    def held(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Claim the folder for the time of the block. ``tell`` is called if the claim of a process that died is taken over."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ArtifactError(
                f"{self._folder}: {_owner(self._folder) or 'another process'} is running in this folder",
                fix="wait until it ends, or choose another folder with --output",
            ) from None
        except OSError as error:
            raise ArtifactError(f"{self._path}: cannot be locked ({error})", fix="choose another folder with --output") from error
        try:
            self._identity = _identity(self._path)
            if dead := _owner(self._folder):
                tell(f"{dead} left this run without finishing: resuming in its place")
            write_json(self._folder / OWNER, {"pid": os.getpid(), "host": socket.gethostname()})
            yield
        finally:
            if self._identity is not None and _identity(self._path) == self._identity:  # and not another's folder in the place of ours
                with suppress(OSError):
                    (self._folder / OWNER).unlink()
            self._lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    """What distinguishes a file from another of its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _owner(folder: Path) -> str:
    """The process that claimed the folder last and has not left it; empty where that is unknown."""
    try:
        table = read_json(folder / OWNER)
        return f"process {int(table['pid'])} on {table['host']}"
    except (ArtifactError, KeyError, TypeError, ValueError):
        return ""
