"""What happens on the other machine: install, unpack, and the parts of the slice, each under a budget of its own.

Nothing but Python's own library is imported here, for nothing else need be installed. The parts are programs; whoever kills this one
kills them too.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slicing.errors import SliceError
from slicing.install import install
from slicing.layout import EARLIER, IMAGES, LOG, MANIFEST, SLICE, SMOKE, SOURCE, SPEED, WHEELS
from slicing.results import read_result, write_result

BUDGETS = {"smoke": 60.0, "speed": 90.0}
"""Seconds. What is left belongs to fidelity."""

_LAST = 20.0
"""Seconds that fidelity leaves over: it stops between two steps, and hands over a checkpoint and the runs."""
_GRACE = 10.0
"""Seconds between the signal that ends a part and the one that kills it."""
_PATIENCE = 180.0
"""Seconds that starting up may take before something is wrong."""
_TAIL = 4000
"""Letters of a part's output that are kept."""
_REHEARSED_PER_CLASS = 40


def run(folder: Path, out: Path, *, minutes: float, parts: Sequence[str], device: str, rehearse: bool) -> int:
    """Do a slice.

    Args:
        folder: that was packed.
        out: for the results.
        minutes: for everything.
        parts: which.
        device: to measure on.
        rehearse: small networks, and few steps.

    Returns:
        0, or 1 if a part failed. One that ran out of time has not failed.

    Raises:
        SliceError: the folder was not packed, packages are missing, or the device is not there.
    """
    deadline = time.monotonic() + 60 * minutes
    manifest = read_result(folder / MANIFEST)
    if "commit" not in manifest:
        raise SliceError(f"{folder}: is not whole; pack it again")
    if (out / SLICE).exists() and read_result(out / SLICE).get("environment") is not None:  # else it did not get as far as to begin
        raise SliceError(f"{out}: holds the results of another slice; name another folder")
    with tempfile.TemporaryDirectory(prefix="sslkit-slice-", ignore_cleanup_errors=True) as work:
        diary = _Diary(out / SLICE, manifest, minutes, rehearse)
        source = folder.resolve() / SOURCE
        diary.state["installed"] = install(folder / WHEELS, Path(work) / "site")
        environment = _environment(Path(work), source, manifest["commit"])
        diary.state["environment"] = _facts(environment, source, device)
        diary.write()
        unpacking = _Unpacking(folder / IMAGES / manifest["images"]["file"], Path(work) / "images", rehearse)
        for part in parts:
            if part == "fidelity":
                unpacking.wait()
            left = deadline - time.monotonic() - (_LAST if part == "fidelity" else _GRACE)
            budget = min(BUDGETS.get(part, left), left)
            if budget <= 0:
                diary.note(part, status="no time left")
                continue
            command = _command(part, folder.resolve(), Path(work), out.resolve(), budget, device, rehearse, manifest["images"]["data"])
            _run_part(part, command, environment, source, budget + (_LAST if part == "fidelity" else 0.0), diary)
    print("\n".join(diary.lines()))
    return int(any(found["status"].startswith("failed") for found in diary.state["parts"].values()))


def _command(part: str, folder: Path, work: Path, out: Path, budget: float, device: str, rehearse: bool, data: str) -> list[str]:
    if part == "smoke":
        return ["-m", "slicing.smoke", "--out", f"{out / SMOKE}", "--tests", f"{folder / SOURCE / 'tests'}", "--device", device]
    if part == "speed":
        size = ["--width", "0.1", "--images", "512", "--rounds", "2", "--seconds", "0.2"] if rehearse else ["--quick", "--seconds", "1"]
        ready = budget * (0.75 if rehearse else 0.5)
        options = ["--jobs", "pretrain", "--device", device.partition(":")[0], "--ready-within", f"{ready:.0f}"]
        return [f"{folder / SOURCE / 'benchmarks' / 'gpu.py'}", "--json", f"{out / SPEED}", *options, *size]
    earlier = ["--earlier", f"{folder / EARLIER}"] if (folder / EARLIER).exists() else []
    places = ["--images", f"{work / 'images'}", "--runs", f"{work / 'runs'}", "--out", f"{out}", *earlier]
    options = ["--until", f"{time.monotonic() + budget:.1f}", "--data", data, *(["--rehearse"] if rehearse else [])]
    return ["-m", "slicing.fidelity", *places, *options, f"device={device}", *fastest(out / SPEED)]


def fastest(speed: Path) -> list[str]:
    """Overrides with which 100 epochs take least, by what the speed part found; none where it found nothing.

    CUDA graphs are left out: figures are to come from the settings that people get by default.
    """
    try:
        variants = read_result(speed)["jobs"]["pretrain"]
    except (SliceError, KeyError):
        return []
    seconds = {name: variants[name].get("s_per_100_epochs") for name in ("eager", "compiled") if name in variants}
    known = {name: value for name, value in seconds.items() if value is not None}
    return [f"compile={str(min(known, key=lambda name: known[name]) == 'compiled').lower()}"] if known else []


@dataclass
class _Diary:
    """``slice.json``: which slice this is, and what became of each part, written at every change."""

    path: Path
    manifest: dict[str, Any]
    minutes: float
    rehearsal: bool
    state: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.state = {
            "id": uuid.uuid4().hex,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "minutes": self.minutes,
            "rehearsal": self.rehearsal,
            "commit": self.manifest["commit"],
            "images": self.manifest["images"],
            "environment": None,
            "parts": {},
        }
        self.write()

    def note(self, part: str, **facts: Any) -> None:
        self.state["parts"].setdefault(part, {}).update(facts)
        self.write()
        print(f"{part}: {facts['status']}", flush=True)

    def write(self) -> None:
        write_result(self.path, self.state)

    def lines(self) -> Iterator[str]:
        for part, found in self.state["parts"].items():
            yield f"{part}: {found['status']}, {found.get('seconds', 0):.0f} s"
            yield from (f"    {line}" for line in found.get("output", "").splitlines()[-12:])


def _run_part(part: str, command: Sequence[str], environment: dict[str, str], source: Path, budget: float, diary: _Diary) -> None:
    """Start a part, wait as long as its budget allows, then stop it and all that it has started."""
    began = time.monotonic()
    diary.note(part, status="running", budget=round(budget))
    with diary.path.with_name(LOG).open("ab+") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has a single thread that matters, and it is in here
        )
        try:
            code = process.wait(timeout=budget)
            status = "done" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            _stop(process)
            status = "cut off"
        output.seek(start)
        text = output.read().decode(errors="replace")[-_TAIL:]
    diary.note(part, status=status, seconds=round(time.monotonic() - began, 1), output=text)


def _stop(process: subprocess.Popen) -> None:
    """First so that it can end well, then for certain, with whatever it has started."""
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    """In the new process: on Linux, it is killed when its parent dies, however that happens."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _environment(work: Path, source: Path, commit: str) -> dict[str, str]:
    """Of every part: what was installed comes first, nothing is asked of the network, what torch compiles is shared."""
    paths = [work / "site", source / "benchmarks", os.environ.get("PYTHONPATH")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "SSLKIT_COMMIT": commit,
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }


def _facts(environment: dict[str, str], source: Path, device: str) -> dict[str, Any]:
    """Device and versions, read by a program that has what was installed."""
    command = [sys.executable, "-m", "slicing.facts"]
    try:
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise SliceError(f"torch did not start within {_PATIENCE:.0f} seconds here") from None
    if done.returncode:
        raise SliceError(f"sslkit cannot be imported here ({' '.join(done.stderr.split()[-40:])})")
    facts = json.loads(done.stdout)
    if device.startswith("cuda") and facts["gpu"] is None:
        raise SliceError("torch sees no CUDA device here; --device cpu --rehearse does the same in small")
    return facts


class _Unpacking:
    """The images, unpacked while the first parts run."""

    def __init__(self, archive: Path, target: Path, rehearse: bool) -> None:
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._unpack, args=(archive, target, rehearse), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Raises what went wrong."""
        self._thread.join()
        if self._problem is not None:
            raise SliceError(f"the packed images cannot be unpacked ({' '.join(str(self._problem).split())}); pack them again")

    def _unpack(self, archive: Path, target: Path, rehearse: bool) -> None:
        try:
            with tarfile.open(archive) as file:
                file.extractall(target, members=_few_of_each_class(file) if rehearse else None, filter="data")
        except (OSError, tarfile.TarError, EOFError) as error:
            self._problem = error


def _few_of_each_class(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    seen: Counter[str] = Counter()
    for member in archive:
        folder = os.path.dirname(member.name)  # noqa: PTH120 - a name in an archive, not a path of this system
        seen[folder] += member.isfile()
        if seen[folder] <= _REHEARSED_PER_CLASS:
            yield member
