"""Packed wheels, installed without an index and beside the interpreter's own packages, which stay as they are."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from email.message import Message
from email.parser import Parser
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING or find_spec("packaging"):
    from packaging.requirements import Requirement
    from packaging.tags import Tag, sys_tags
    from packaging.utils import canonicalize_name, parse_wheel_filename
else:  # pip brings a copy
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.tags import Tag, sys_tags
    from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename

from slicing.errors import SliceError

PROJECT = "sslkit"
TOOLS = frozenset({"hypothesis", "pytest", "pytest-timeout"})
"""What the tests on the other machine need, out of sslkit's extra ``test``."""


class Wheel(NamedTuple):
    """One packed distribution.

    Attributes:
        path: the file.
        name: as packaging spells it.
        version: in words.
        tags: which interpreters and systems it is for.
        requirements: of its own, extras left out.
    """

    path: Path
    name: str
    version: str
    tags: frozenset[Tag]
    requirements: tuple[Requirement, ...]

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] | None = None) -> Self:
        """What a file's name and its METADATA say.

        Args:
            path: the file.
            environment: of the machine that it is for, as markers know it; None: this one.
        """
        name, version, _, tags = parse_wheel_filename(path.name)
        return cls(path, name, str(version), tags, requirements_of(_metadata(path), environment))


def requirements_of(described: Message, environment: Mapping[str, str] | None = None) -> tuple[Requirement, ...]:
    """What a distribution needs on a machine: all that no extra guards, and of sslkit the ``TOOLS`` too."""
    project = canonicalize_name(described["Name"]) == PROJECT
    found = [Requirement(text) for text in described.get_all("Requires-Dist") or ()]
    return tuple(requirement for requirement in found if _applies(requirement, project, dict(environment or {})))


def missing(wheels: Iterable[Wheel], installed: Callable[[str], str | None], supported: frozenset[Tag]) -> list[Wheel]:
    """The wheels to install: sslkit's, and of what it needs all that is not there, or too old.

    What is there in a version that will do is left alone, and so is all that it needs in turn.

    Args:
        wheels: all that were packed.
        installed: the version of a distribution that is there, by its name.
        supported: the tags that this interpreter takes.

    Raises:
        SliceError: something is neither there nor packed for this interpreter; names all of it.
    """
    packed = {wheel.name: wheel for wheel in wheels}
    chosen: dict[str, Wheel] = {}
    problems: dict[str, str] = {}
    wanted = [Requirement(PROJECT)]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        there = None if name == PROJECT else installed(name)  # this very commit's, whatever else there is
        if name in chosen or (there is not None and requirement.specifier.contains(there, prereleases=True)):
            continue
        wheel = packed.get(name)
        if wheel is None or not wheel.tags & supported:
            why = "is not packed" if wheel is None else f"is packed as {wheel.path.name}, which this interpreter does not take"
            problems[name] = f"{requirement} ({there or 'not installed'}) {why}"
        else:
            chosen[name] = wheel
            wanted += wheel.requirements
    if problems:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SliceError(f"packages are missing here: {'; '.join(problems.values())}; pack again with --python {python}, or install them")
    return list(chosen.values())


def install(folder: Path, target: Path) -> list[str]:
    """Install what is missing into a folder of its own, to be put on PYTHONPATH.

    Args:
        folder: holds the wheels.
        target: a fresh folder.

    Returns:
        What was installed: ``name version``.

    Raises:
        SliceError: something is missing and not packed, or pip fails.
    """
    wheels = missing([Wheel.read(path) for path in sorted(folder.glob("*.whl"))], _installed, frozenset(sys_tags()))
    options = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check", "--root-user-action", "ignore"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *(str(wheel.path) for wheel in wheels)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SliceError(f"pip cannot install the packed wheels ({' '.join(result.stderr.split())})")
    return [f"{wheel.name} {wheel.version}" for wheel in wheels]


def _metadata(path: Path) -> Message:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def _applies(requirement: Requirement, project: bool, environment: dict[str, str]) -> bool:
    if requirement.marker is None:
        return True
    extras = ("", "test") if project and canonicalize_name(requirement.name) in TOOLS else ("",)
    return any(requirement.marker.evaluate({**environment, "extra": extra}) for extra in extras)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
