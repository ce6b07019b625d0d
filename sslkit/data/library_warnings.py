"""What libraries warn of while they decode a file, with the name of the file: on its own, ``Corrupt EXIF data`` helps nobody."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

_file: ContextVar[Path | None] = ContextVar("file", default=None)


class FileWarning(NamedTuple):
    """A warning as it is sent to another process; the file that was being decoded, and where in a library's code it was raised."""

    file: Path | None
    text: str
    filename: str
    line: int


@contextmanager
def decoding(file: Path | None) -> Iterator[None]:
    """Say which file is being decoded in this thread."""
    before = _file.set(file)
    try:
        yield
    finally:
        _file.reset(before)


@contextmanager
def naming_files() -> Iterator[None]:
    """Let warnings name the file that is being decoded, in whatever thread: each text once, with the first file. For the main thread.

    The filters stay as they are: ``catch_warnings`` in several threads would lose them.
    """
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any, **options: Any) -> None:
        file = _file.get()
        if file is None:
            shown(message, category, filename, lineno, *rest, **options)
        elif (text := str(message).strip()) not in _SHOWN:
            _SHOWN.add(text)
            shown(UserWarning(f"{file}: {text}"), UserWarning, filename, lineno, *rest, **options)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


_SHOWN: set[str] = set()
"""In this process. Python forgets what it has shown whenever a library changes the filters."""


def gather(warned: list[FileWarning]) -> None:
    """In a process that decodes for another: note what libraries warn of from now on, instead of printing it."""

    def show(message: Warning | str, _category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        warned.append(FileWarning(_file.get(), str(message), filename, lineno))

    warnings.showwarning = show


def repeat_warnings(warned: Sequence[FileWarning]) -> None:
    """Warn here of what another process has gathered."""
    for warning in warned:
        with naming_files(), decoding(warning.file):
            warnings.warn_explicit(warning.text, UserWarning, warning.filename, warning.line)
