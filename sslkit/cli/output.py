"""Where a command's words go: its results alone to stdout, everything else to stderr, and what cannot be printed is no disaster."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

from sslkit.contract.errors import RunFailedError, SslkitWarning, printable

_READER_LEFT = 128 + 13
"""What a shell says of a program that SIGPIPE ended."""


class OutputError(RunFailedError):
    """Results cannot be written to stdout; if ``closed``, because whoever was to read them has left, which needs no words."""

    def __init__(self, reason: str, *, fix: str = "", closed: bool = False) -> None:
        super().__init__(f"standard output cannot be written ({reason})", fix=fix)
        self.closed = closed
        self.exit_code = _READER_LEFT if closed else 1


if TYPE_CHECKING:
    _Text = TextIO  # what it is taken for: the methods that it does not have are those of the stream behind it
else:
    _Text = object


class _Stream(_Text):
    """A text stream that does something else than it did where the system refuses.

    Args:
        stream: None: there is none, and nobody misses it.
        refused: is called with the system's error.
    """

    def __init__(self, stream: TextIO | None, refused: Callable[[OSError | ValueError], None]) -> None:
        self._stream = stream
        self._refused = refused

    def write(self, text: str) -> int:
        """As a file does."""
        if not isinstance(text, str):  # else taken for a binary stream
            raise TypeError("text expected")
        self._do("write", text)
        return len(text)

    def flush(self) -> None:
        """As a file does."""
        self._do("flush")

    def forget(self) -> None:
        """Take what follows, and what waits, to nowhere: Python would try once more at its end."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        self._stream = None

    def _do(self, method: str, *arguments: str) -> None:
        try:
            getattr(self._stream, method, lambda *_: None)(*arguments)
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.forget()
            self._refused(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream if self._stream is not None else sys.__stderr__, name)


class Results(_Stream):
    """A command's own stdout.

    Attributes:
        otherwise: what to say should it refuse: where the results are as well.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream, self._fail)
        self.otherwise = ""

    def _fail(self, error: OSError | ValueError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(reason, fix=self.otherwise, closed=isinstance(error, BrokenPipeError)) from error


def quiet_stream(stream: TextIO | None) -> TextIO:
    """A stream that drops what cannot be printed: a closed pipe or a lost terminal does not end a run."""
    return _Stream(stream, lambda _: None)


@contextmanager
def command_output(*, quiet: bool) -> Iterator[Results]:
    """For the time of a command: what plugins and libraries print goes to stderr, and unless ``quiet`` what they warn of is noted there in one
    line.

    Yields:
        The command's own stdout.
    """
    with _own_descriptor() as stream, redirect_stdout(sys.stderr), _noting_warnings(quiet=quiet):
        results = Results(stream)
        yield results
        results.flush()


@contextmanager
def _own_descriptor() -> Iterator[TextIO | None]:
    """Stdout under another number: what C code and other processes print as number 1 goes to stderr, too."""
    stream = sys.stdout
    try:
        real = stream.fileno() == 1 and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # there is none, or a test's
        real = False
    if not real:
        yield stream
        return
    stream.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with os.fdopen(kept, "w", encoding=stream.encoding, errors=stream.errors, closefd=False) as own:
            yield own
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _noting_warnings(*, quiet: bool) -> Iterator[None]:
    """Each once: Python forgets what it has shown whenever a library changes the filters. They stay as they are."""
    noted: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
        text = " ".join(printable(str(message).replace("\n", " ")).split())
        text = text if issubclass(category, SslkitWarning) else f"{text} ({category.__name__} of {_package(filename)})"
        if not quiet and text not in noted:
            noted.add(text)
            sys.stderr.write(f"note: {text}\n")

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def _package(filename: str) -> str:
    """The top-level package or module of a source file, as far as its path says."""
    path = max((place for place in sys.path if place and filename.startswith(f"{place.rstrip(os.sep)}{os.sep}")), key=len, default="")
    return filename[len(path) :].strip(os.sep).partition(os.sep)[0].removesuffix(".py")
