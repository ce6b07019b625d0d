"""What can go wrong, each in one line: what, found, allowed, fix.

``exit_code`` is that of the command line: 2 for a user's mistake, 1 for a run that failed; for a run that was stopped 75 (its time is
up), or 128 plus a signal's number: 130 (Ctrl-C), 143 (SIGTERM), 129 (SIGHUP) ...
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar

_NOTHING = object()


class SslkitWarning(UserWarning):
    """What a user should know that is no error, where no observer shows it: skipped files, a slow setting."""


class SslkitError(Exception):
    """Every error that sslkit raises on purpose.

    Args:
        what: the thing that is wrong, a dotted path of the recipe where there is one, and what is wrong with it.
        found: the value found, shown with ``repr``.
        allowed: what would be right: a rule, or the allowed names.
        fix: what to do about it.
    """

    exit_code: int = 2

    def __init__(self, what: str, *, found: object = _NOTHING, allowed: str | Iterable[str] = "", fix: str = "") -> None:
        self.what = _cut(what, 2000)  # files may hold names without end
        parts = [self.what]
        if found is not _NOTHING:
            parts.append(f"found {_cut(repr(found), 80)}")
        if allowed := allowed if isinstance(allowed, str) else ", ".join(allowed):
            parts.append(f"allowed: {allowed}")
        if fix:
            parts.append(fix)
        super().__init__(printable("; ".join(parts)))


class OptionError(SslkitError, ValueError):
    """An option's value is wrong. Raise it in ``__post_init__`` or ``check``: a recipe error then names the option's dotted path.

    Args:
        option: the option's name, as the recipe spells it.
        problem: what is wrong with it.
    """

    def __init__(self, option: str, problem: str, *, found: object = _NOTHING, allowed: str | Iterable[str] = "", fix: str = "") -> None:
        super().__init__(f"{option}: {problem}" if option else problem, found=found, allowed=allowed, fix=fix)
        self.option = option
        self.detail = str(self).removeprefix(f"{option}: ")


class RecipeError(SslkitError):
    """A recipe is wrong; the message starts with the dotted path of the key."""


class DataError(SslkitError):
    """Images or labels are missing, damaged or do not fit what is asked of them."""


class PluginError(SslkitError):
    """A plugin is broken, or a name is offered twice or by nobody."""


class ArtifactError(SslkitError):
    """A run folder is damaged, incomplete, or belongs to a different recipe."""


class BackboneError(SslkitError):
    """A backbone cannot be built, or cannot do what is asked of it."""


class RunFailedError(SslkitError):
    """A run failed although nothing in its recipe was wrong: a diverged loss, a frozen backbone that moved."""

    exit_code: int = 1


class DivergedError(RunFailedError):
    """The loss, its gradient or the weights are no longer finite, or have exploded."""


class StorageError(RunFailedError):
    """The disk cannot be written to: it is full or read-only, or the folder is gone."""


class RunInterruptedError(SslkitError):
    """A run was asked to stop; a checkpoint is on disk where it has a folder, and starting again resumes it.

    Args:
        what: see :class:`SslkitError`.
        exit_code: tells who asked: ``TIME_IS_UP``, or ``SIGNALLED`` plus the signal's number, as a shell has it.
    """

    SIGNALLED: ClassVar[int] = 128
    CTRL_C: ClassVar[int] = SIGNALLED + 2
    TIME_IS_UP: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: not done, try again

    def __init__(self, what: str, *, exit_code: int = CTRL_C) -> None:
        super().__init__(what)
        self.exit_code = exit_code


def printable(text: str) -> str:
    """One line for any terminal and encoding: file names may hold line breaks, escape codes and bytes that are not text."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii") for char in text)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest candidate, or an empty string where none is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first of several names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
