"""Opening a file that was found by its name: it may be gone by now, be another one, or be no file at all."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sslkit.contract.errors import DataError

SKIP = 'set on_error = "skip" in [data]'

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0)  # Windows has none, and no pipes in its folders either


def open_regular(path: Path, num_bytes: int | None = None) -> BinaryIO:
    """Open a file to read it, and only a file: reading a pipe would wait for ever, and opening a device may move it.

    Args:
        path: links are followed.
        num_bytes: what it must be long, as it was when the folder was scanned; None: anything.

    Raises:
        DataError: the file is gone, has changed, may not be read, or is none; the message names it.
    """
    try:
        status = path.stat()
        _check_kind(path, status.st_mode)
        _check_size(path, status.st_size, num_bytes)
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | _WITHOUT_WAITING))
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", fix=f"make it readable, delete it, or {SKIP}") from error


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise DataError(f"{path} is {kind}, not a file", fix=f"remove or rename it, or {SKIP}")


def _check_size(path: Path, found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataError(
            f"{path} has changed since the folder was scanned",
            found=f"{found:,} bytes",
            allowed=f"{expected:,} bytes, as then",
            fix="leave images alone during a run: put the old file back, or start over with --fresh",
        )


def _missing(path: Path) -> DataError:
    if path.is_symlink():
        return DataError(f"{path} is a link to nothing", fix=f"repair or delete it, or {SKIP}")
    return DataError(
        f"{path} is gone: it was there when the folder was scanned",
        fix="leave images alone during a run: put the file back, or start over with --fresh",
    )
