"""Work done by a user who may read only what everybody may: root, as whom tests often run, may read everything."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


def as_nobody(work: Callable[[], object]) -> str:
    """What ``work`` returns, or the error that it raises, as text, out of a child process of another user (if this one is root)."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writing, _outcome(work).encode("utf-8", "backslashreplace"))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def _outcome(work: Callable[[], object]) -> str:
    try:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        return repr(work())
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, *folder.rglob("*")):  # or those who are not root could not remove it
            path.chmod(0o755)
