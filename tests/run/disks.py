"""Disks that refuse: limits and file systems of the system's own, for tests that do not pretend."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def file_sizes_limited(num_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what ``ulimit -f`` does, and what a quota feels like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[Path]:
    """A file system of its own, of so many bytes (``"900k"``); skips the test, visibly, where none may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        while folder.is_mount():  # once for each time that it was made read-only, too
            subprocess.run(["umount", "--lazy", "--recursive", str(folder)], check=True)


def make_read_only(folder: Path) -> None:
    """From here on nothing can be written into a folder, although files in it may be open. Undone with its small disk."""
    for options in (["--bind"], ["-o", "remount,ro,bind"]):
        subprocess.run(["mount", *options, str(folder), str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until the disk is full; removing the file frees it again."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")
