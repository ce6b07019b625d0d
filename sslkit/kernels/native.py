"""C sources to a loaded library: compiled for this very processor on first use, kept in the user's cache, never needed.

Where there is no compiler, or anything else fails, there is no library and callers do without.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SWITCH = "SSLKIT_NATIVE_KERNELS"
"""Set it to 0 to use torch's kernels alone. So does anything else but 1, as it was meant to switch something."""

_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-fopenmp")
_SECONDS = 30


class NativeBuildError(Exception):
    """There is no library; says why in one line."""


def build(source: Path, environ: Mapping[str, str] | None = None) -> ctypes.CDLL:
    """Compile and load one C file; torch must have been imported, whose OpenMP threads it shares.

    Args:
        source: the file; what it includes lies beside it under the same name with another ending.
        environ: of the process; the switch and the cache's place are read from it.

    Raises:
        NativeBuildError: there will be no library.
    """
    environ = os.environ if environ is None else environ
    if (switch := environ.get(SWITCH, "")) not in ("", "1"):
        raise NativeBuildError(f"switched off by {SWITCH}={switch}")
    if not sys.platform.startswith("linux"):
        raise NativeBuildError(f"not supported on {sys.platform}")
    reason = "no C compiler"
    for compiler in filter(None, map(shutil.which, ("gcc", "cc", "clang"))):
        if not Path(compiler).is_absolute():  # PATH names a folder below the current one: whose that is, nobody knows
            continue
        try:
            return _build_with(compiler, source, environ)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no home folder
            reason = _reason(error)
    raise NativeBuildError(reason)


def _build_with(compiler: str, source: Path, environ: Mapping[str, str]) -> ctypes.CDLL:
    name = f"{source.stem}-{_mark(source, compiler)}.so"
    with _opened(_cache_folder(environ)) as folder:
        try:
            return _load(folder, name)
        except OSError:  # not there, damaged, or somebody else's
            (folder / name).unlink(missing_ok=True)
        _compile(source, folder, name, compiler)
        return _load(folder, name)


def _reason(error: Exception) -> str:
    """The last thing that the compiler said, or what else went wrong; in one line."""
    said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
    return said.splitlines()[-1] if said else type(error).__name__


def _cache_folder(environ: Mapping[str, str]) -> Path:
    root = Path(environ.get("XDG_CACHE_HOME", ""))
    folder = (root if root.is_absolute() else Path.home() / ".cache") / "sslkit" / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """A folder of the user's own that others cannot write to: what lies in it is run.

    It is held open and reached through its descriptor. Under its name, somebody who can write to a folder above it could put another in
    its place after it was checked.

    Raises:
        PermissionError: it is somebody else's, or others can write to it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check_own(os.fstat(descriptor), path)
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")  # not /proc/self: the compiler is a process of its own
    finally:
        os.close(descriptor)


def _check_own(status: os.stat_result, path: Path) -> None:
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by others")


def _load(folder: Path, name: str) -> ctypes.CDLL:
    """Load a library that nobody but the user can have written: the folder may have been open to others before."""
    _check_own(os.lstat(folder / name), folder / name)  # of a link, everybody may write: where it leads is not asked
    return ctypes.CDLL(str(folder / name))


def _mark(source: Path, compiler: str) -> str:
    """Changes with the sources, the compiler and the processor: a home folder may be shared by unlike machines."""
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for path in sorted(source.parent.glob(f"{source.stem}.[ch]")):
        digest.update(path.read_bytes())
    digest.update(_run([compiler, "--version"]))
    digest.update(_processor())
    return digest.hexdigest()[:16]


@cache
def _processor() -> bytes:
    """What this processor can do, of Linux' /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))


def _compile(source: Path, folder: Path, name: str, compiler: str) -> None:
    """Written beside and renamed: several processes may build it at once."""
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        objects, library = Path(beside) / "kernels.o", Path(beside) / "kernels.so"
        _run([compiler, *_FLAGS, "-c", str(source), "-o", str(objects)])
        # Not linked to OpenMP: a second copy of it would bring a second set of threads. Its names are found in torch's when loaded.
        _run([compiler, "-shared", str(objects), "-o", str(library), "-lm"])
        library.chmod(0o700)  # whatever the umask lets others do
        library.replace(folder / name)


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS).stdout
