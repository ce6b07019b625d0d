"""A run that is killed until it has been killed often enough, and then left to end."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from survival.remains import differences, moment_of
from survival.variants import Variant


@dataclass
class Toll:
    """What one variant went through.

    Attributes:
        kills: at random times, and at random writes.
        runs: that were killed at least once and ended.
        moments: what the run was doing when it was killed, and how often.
        problems: what was not as in the run that nothing happened to.
    """

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Trial:
    """One variant.

    Args:
        name: of the variant.
        variant: what is run.
        folder: for all that it writes.
        seed: of the times at which it is killed.
    """

    def __init__(self, name: str, variant: Variant, folder: Path, seed: int) -> None:
        self._variant = variant
        self._folder = folder / name
        self._recipe = variant.write(self._folder, name)
        self._random = random.Random(f"{name} {seed}")
        self.whole = self._folder / "whole"
        self.toll = Toll()
        self.seconds = 0.0
        self.writes = 0

    def run_whole(self) -> None:
        """The run that nothing happens to, which also says how long it takes and how often it writes."""
        counted = self._folder / "writes"
        began = time.monotonic()
        code, output = self._start(self.whole, "--count-writes", str(counted)).wait_for_end()
        if code:
            raise RuntimeError(f"{self._recipe}: ends with {code} although nobody disturbs it\n{output}")
        self.seconds = time.monotonic() - began
        self.writes = int(counted.read_text(encoding="utf-8"))

    def survive(self, *, times: int, writes: int) -> None:
        """Be killed so often at random times, and so often at random writes, in any number of runs, each of which must end well."""
        plan = ["a random time"] * times + ["a random write"] * writes
        self._random.shuffle(plan)
        while plan:
            self._one_run(plan)

    def _one_run(self, plan: list[str]) -> None:
        folder = self._folder / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        killed = 0
        while plan:
            code, output = self._start_to_kill(folder, plan[-1])
            if code == -signal.SIGKILL:
                self.toll.kills[plan.pop()] += 1
                self.toll.moments[moment_of(folder)] += 1
                killed += 1
            elif code:
                self._note([f"ended with {code}: {output}"], folder)
                return
            else:
                break
        else:
            code, output = self._start(folder).wait_for_end()
            if code:
                self._note([f"ended with {code}: {output}"], folder)
                return
        if killed:
            self.toll.runs += 1
            self._note(differences(folder, self.whole), folder)

    def _note(self, problems: list[str], folder: Path) -> None:
        """Say at once what is wrong, and keep the folder: a moment like this may not come again soon."""
        if problems:
            kept = folder.with_name(f"problem-{len(self.toll.problems)}")
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            print(f"{kept}: {problems}", file=sys.stderr)
            self.toll.problems += problems

    def _start_to_kill(self, folder: Path, how: str) -> tuple[int, str]:
        if how == "a random write":
            return self._start(folder, "--kill-at-write", str(self._random.randint(1, self.writes))).wait_for_end()
        return self._start(folder).kill_after(self._random.uniform(0, self.seconds))

    def _start(self, folder: Path, *options: str) -> "_Process":
        streamed = ["--streamed"] if self._variant.streamed else []
        return _Process([*streamed, *options, "--", "run", str(self._recipe), "--quiet", "--allow-code", "--output", str(folder)])


class _Process:
    """A victim that runs."""

    def __init__(self, arguments: list[str]) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "survival.victim", *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_end(self) -> tuple[int, str]:
        """The exit code, negative for a signal, and what it printed."""
        _, output = self._process.communicate()
        return self._process.returncode, output

    def kill_after(self, seconds: float) -> tuple[int, str]:
        """SIGKILL, unless it ends before."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self.wait_for_end()
