"""Errors in code that is not sslkit's: whose it is, where in a run it failed, and the part of the traceback that concerns its author."""

import copy
import site
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from traceback import StackSummary, format_list, walk_tb
from types import FrameType, TracebackType

from torch.optim import Optimizer

from sslkit.contract.checks import Contract
from sslkit.contract.class_address import one_line, package_of, provenance_of
from sslkit.contract.errors import SslkitError, printable

_LIBRARIES = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {*site.getsitepackages(), site.getusersitepackages()}
)

Frame = tuple[str, int, str, str | None]
"""File, line, function and source, plain enough for any process: newer Pythons' own summaries hold code, which cannot be sent."""


class Blame(str):
    """A note on an error, in one line."""

    places: tuple[str, ...] = ()  # where in a run it happened, the outermost first
    culprit: str = ""  # whose code failed, and in which method; empty where all of it is sslkit's or a library's
    frames: tuple[Frame, ...] = ()  # of the culprit's own code, the outermost first, without values
    consequence: str = ""  # what became of the work so far; empty where nobody knows

    def traceback(self) -> str:
        """The culprit's own frames, as Python prints them."""
        return "".join(format_list(self.frames))


@contextmanager
def blaming(where: Callable[[], str] | str = "", consequence: Callable[[], str] | str = "") -> Iterator[None]:
    """Add a note on whose code failed and where to an error that sslkit does not raise on purpose, which keeps its type and traceback.
    An exit counts as one, because only a plugin would end a process in here. Nested blocks put their places before those of the inner ones.

    Args:
        where: ``stage 'pretrain'``.
        consequence: what becomes of the work so far: ``the checkpoint of step 7 is kept``.
    """
    try:
        yield
    except SslkitError:
        raise
    except (Exception, SystemExit) as error:
        _blame(error, where if isinstance(where, str) else where(), consequence if isinstance(consequence, str) else consequence())
        raise


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Add where and whose it is to an error that a plugin's code raises on purpose; its class stays, and with it the exit code."""
    try:
        yield
    except SslkitError as error:
        *_, (last, _) = walk_tb(error.__traceback__)
        if _is_foreign(last) or _owner(last):
            error.args = (f"{where}: {_culprit(error.__traceback__)[0]}: {error}",)
        raise


def blame_of(error: BaseException) -> Blame | None:
    """The note that an error carries."""
    return next((note for note in getattr(error, "__notes__", ()) if isinstance(note, Blame)), None)


def portable(error: BaseException) -> BaseException:
    """An error as it can be sent to another process, with its note: itself, unless it cannot be pickled."""
    try:
        sent = copy.copy(error)
        ForkingPickler.dumps(sent)
    except Exception:
        sent = RuntimeError(one_line(error))
        if note := blame_of(error):
            sent.add_note(note)
    return sent


def _blame(error: BaseException, where: str, consequence: str) -> None:
    places = (where,) if where else ()
    if found := blame_of(error):
        error.__notes__.remove(found)
        places, culprit, frames, consequence = (*places, *found.places), found.culprit, found.frames, found.consequence or consequence
    else:
        culprit, frames = _culprit(error.__traceback__)
    parts = (", ".join(places), culprit, printable(one_line(error)))
    text = ": ".join(filter(None, parts))
    note = Blame(f"{text}; {consequence}" if consequence else text)
    note.places, note.culprit, note.frames, note.consequence = places, culprit, frames, consequence
    error.add_note(note)


def _culprit(trace: TracebackType | None) -> tuple[str, tuple[Frame, ...]]:
    """The class in a role of its own, not sslkit's, that was at work last, and which of its package's methods was entered; or else the
    first function that is not sslkit's. And its frames.
    """
    stack = list(walk_tb(trace))
    named = None
    for each, _ in stack:
        owner = _owner(each)
        if owner is not None and (named is None or package_of(owner.__module__) != package_of(named[0].__module__)):
            named = owner, each
    if named is not None:
        cls, frame = named
        culprit, package = f"{provenance_of(cls)} failed in {frame.f_code.co_name}", package_of(cls.__module__)
    else:
        frame = next((frame for frame, _ in stack if _is_foreign(frame)), None)
        if frame is None:
            # An optimizer of torch's may have failed that a plugin built: sslkit has not called it wrongly.
            called = ((each.f_locals.get("self"), each.f_code.co_name) for each, _ in reversed(stack))
            return next((f"{provenance_of(type(at))} failed in {name}" for at, name in called if isinstance(at, Optimizer)), ""), ()
        culprit, package = f"{frame.f_code.co_qualname} in {Path(frame.f_code.co_filename).name} failed", package_of(_module(frame))
    below = stack[next(index for index, (each, _) in enumerate(stack) if each is frame) :]
    own = [(each, line) for each, line in below if package_of(_module(each)) == package or _is_foreign(each)]
    return culprit, tuple((each.filename, each.lineno or 0, each.name, each.line) for each in StackSummary.extract(iter(own)))


def _owner(frame: FrameType) -> type | None:
    """The class of the object whose method this is, if that has a role in a run and the method is not sslkit's or torch's."""
    first = frame.f_code.co_varnames[:1]
    owner = frame.f_locals.get(first[0]) if first and frame.f_code.co_argcount else None
    cls = owner if isinstance(owner, type) else type(owner)
    outside = package_of(_module(frame)) not in ("sslkit", "torch") and frame.f_code.co_filename != "<string>"
    return cls if outside and issubclass(cls, (Contract, Optimizer)) else None


def _is_foreign(frame: FrameType) -> bool:
    """Whether it is neither sslkit's nor of something that is installed."""
    path = frame.f_code.co_filename
    return package_of(_module(frame)) != "sslkit" and not path.startswith("<") and not path.startswith(_LIBRARIES)


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
