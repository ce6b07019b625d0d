"""Files that are written whole or not at all, and what a disk refuses, in plain words."""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sslkit.contract.errors import ArtifactError, StorageError

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or raise the quota"),
    errno.EFBIG: ("the file is larger than this account may write", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "make it writable, or choose another folder with --output"),
    errno.EACCES: ("permission denied", "make the folder writable, or choose another with --output"),
    errno.EPERM: ("permission denied", "make the folder writable, or choose another with --output"),
    errno.ENOENT: ("its folder is gone", "was the run's folder removed or moved? Put it back, or start over"),
    errno.ESTALE: ("its folder is gone", "was the run's folder removed or moved? Put it back, or start over"),
    errno.ENOTDIR: ("a file exists where its folder should be", "remove that, or choose another folder with --output"),
    errno.EEXIST: ("a file exists where its folder should be", "remove that, or choose another folder with --output"),
    errno.ELOOP: ("it is a link", "remove the link"),
    errno.EIO: ("the disk reports an error", "check the disk"),
}
"""By the system's error number: what is wrong, and what to do about it."""

_UNFINISHED = (f"*.tmp-{'[0-9a-f]' * 16}", f".tmp{'[0-9A-Za-z]' * 6}")
"""What unfinished files are called, ours and those of safetensors' ``save_file``; a kill leaves them behind."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a ``StorageError`` that says in one line what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason, fix = _REASONS.get(error.errno or 0, (error.strerror or str(error), "mend that"))
        raise StorageError(f"{path}: cannot be written, {reason}", fix=f"{fix}; what was written before is still there") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Hand out a new file beside ``path``, to be filled; it takes that name when the block ends, and is on disk then.

    A crash or an error at any moment leaves the old file or the new one. The new file's name cannot be guessed, so that no link can lie
    in wait.
    """
    beside = path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")
    with writing(path):
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield beside
            _flush(beside)
            beside.replace(path)
            _flush(path.parent)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which must not be a link. A crash may cut it short."""
    flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW
    with writing(path), os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def find_unfinished(folder: Path) -> list[Path]:
    """The unfinished files in a folder, at any depth: those that are being written, and those that a kill has left."""
    return [path for pattern in _UNFINISHED for path in folder.rglob(pattern)]


def remove_unfinished(folder: Path) -> None:
    """Remove what a kill has left in a folder, at any depth. Only for the process that is alone in it."""
    remove(find_unfinished(folder))


def remove(files: Iterable[Path]) -> None:
    """Remove files, if they are there."""
    for path in files:
        with writing(path):
            path.unlink(missing_ok=True)


def refuse_links(folder: Path) -> None:
    """Refuse a folder that is a link, or has one in it: what is written there would end up elsewhere."""
    for path in (folder, *(folder.iterdir() if folder.is_dir() else ())):
        if path.is_symlink():
            raise ArtifactError(
                f"{path}: is a link, which a run writes into only if it is the run's whole folder",
                fix="remove the link, or choose another folder with --output",
            )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
