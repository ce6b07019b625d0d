"""One folder with all that a machine without network lacks."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path, PurePosixPath

from slicing.errors import SliceError
from slicing.install import PROJECT, Requirement, Wheel, canonicalize_name
from slicing.layout import EARLIER, IMAGES, MANIFEST, MAX_PACKED, MIB, SOURCE, WHEELS
from sslkit.run.environment import checkout_commit

ROOT = Path(__file__).parents[2]

THERE = frozenset({"matplotlib", "numpy", "pillow", "scikit-learn", "timm", "torch", "torchvision"})
"""What a machine made for deep learning has, and what would not fit: torch alone is larger than the whole folder may be."""

_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")
_GPU_MARK = "mark.gpu"


def pack(folder: Path, *, images: Path, data: str, earlier: Path | None = None, python: str = "3.12", dirty: bool = False) -> str:
    """Make the folder anew.

    Args:
        folder: where; an earlier packed folder is replaced, anything else refused.
        images: an archive with ``train/<class>/*`` and ``test/<class>/*``.
        data: what the records are to say that the images are.
        earlier: an archive of runs to resume; None: ``benchmarks/earlier.tar``, if it exists.
        python: version of the machine's interpreter.
        dirty: pack although the checkout has uncommitted changes.

    Returns:
        What was packed, in a line.

    Raises:
        SliceError: a file is missing, the checkout has uncommitted changes, pip fails, or the folder would be too large.
    """
    if not images.is_file():
        raise SliceError(f"--images: no such file; found {str(images)!r}; give an archive with train/<class>/* and test/<class>/*")
    if earlier is not None and not earlier.is_file():
        raise SliceError(f"--earlier: no such file; found {str(earlier)!r}")
    commit = checkout_commit()
    if not dirty and (not commit or commit.endswith("-dirty")):
        raise SliceError(f"results need the commit that made them; found {commit or 'no checkout'!r}; commit first, or try with --dirty")
    _check_images(images)
    _make_anew(folder)
    _pack_wheels(folder / WHEELS, python)
    _pack_source(folder)
    (folder / IMAGES).mkdir()
    shutil.copyfile(images, folder / IMAGES / images.name)
    before = earlier or ROOT / "benchmarks" / EARLIER
    if before.is_file():
        shutil.copyfile(before, folder / EARLIER)
    manifest = {
        "commit": commit,
        "python": python,
        "packed": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": {"file": images.name, "sha256": sha256(images.read_bytes()).hexdigest(), "data": data},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return _described(folder, commit)


def _check_images(archive: Path) -> None:
    """On the other machine it would take minutes to find out."""
    try:
        with tarfile.open(archive) as file:
            splits = {parts[0] for member in file if member.isfile() and len(parts := PurePosixPath(member.name).parts) == 3}
    except (OSError, EOFError, tarfile.TarError) as error:
        raise SliceError(f"--images: {archive} cannot be read ({' '.join(str(error).split())})") from None
    if lacking := {"train", "test"} - splits:
        raise SliceError(f"--images: {archive} has no {' and no '.join(f'{split}/<class>/<image>' for split in sorted(lacking))}")


def _make_anew(folder: Path) -> None:
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).is_file()):
            raise SliceError(f"{folder}: holds something that was not packed by this script; name another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    # Until the folder is whole this says so, and lets a pack that was cut short be replaced.
    (folder / MANIFEST).write_text("{}\n", encoding="utf-8")


def _pack_wheels(folder: Path, python: str) -> None:
    """Our own wheel, and what it needs beside ``THERE``, and what that needs, level by level."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (own,) = folder.glob(f"{PROJECT}-*.whl")
    environment = _environment(python)
    seen = {PROJECT, *THERE}
    level = Wheel.read(own, environment).requirements
    while level := _unseen(level, seen):
        seen |= level.keys()
        known = set(folder.glob("*.whl"))
        options = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, "--dest", str(folder)]
        platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
        _pip("download", *options, *platforms, *(f"{requirement.name}{requirement.specifier}" for requirement in level.values()))
        added = [Wheel.read(path, environment) for path in sorted(set(folder.glob("*.whl")) - known)]
        level = tuple(requirement for wheel in added for requirement in wheel.requirements)


def _unseen(requirements: tuple[Requirement, ...], seen: set[str]) -> dict[str, Requirement]:
    """By name; what two distributions ask for must suit both."""
    found: dict[str, Requirement] = {}
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name not in seen:
            found.setdefault(name, requirement).specifier &= requirement.specifier
    return found


def _pack_source(folder: Path) -> None:
    """The part of the checkout that measures and tests, laid out as it is there."""
    shutil.copyfile(ROOT / "benchmarks" / "slice.py", folder / "slice.py")
    tests = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_") or _GPU_MARK in path.read_text("utf-8")]
    benchmarks = [path for ending in ("py", "jinja") for path in (ROOT / "benchmarks").rglob(f"*.{ending}")]
    records = (ROOT / "docs" / "results").glob("*.json")
    for path in (ROOT / "pyproject.toml", *tests, *benchmarks, *records, *(ROOT / "recipes").glob("*.toml")):
        target = folder / SOURCE / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _environment(python: str) -> Mapping[str, str]:
    """The machine, in the words of dependency markers."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
    }


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SliceError(f"pip {arguments[0]} failed: {' '.join(result.stderr.split()[-60:])}")


def _described(folder: Path, commit: str) -> str:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    if total > MAX_PACKED:
        largest = ", ".join(f"{path.name} {sizes[path] / MIB:.1f}" for path in sorted(sizes, key=lambda path: -sizes[path])[:3])
        raise SliceError(
            f"{folder}: is too large; found {total / MIB:.1f} MiB; allowed {MAX_PACKED / MIB:.0f}; the largest files: {largest}"
        )
    wheels = len(list((folder / WHEELS).glob("*.whl")))
    warning = "" if re.fullmatch("[0-9a-f]+", commit) else "; what it measures cannot be merged"
    return f"{folder}: {total / MIB:.1f} MiB, {len(sizes)} files, {wheels} wheels, commit {commit or 'unknown'}{warning}"
