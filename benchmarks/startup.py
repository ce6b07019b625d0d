"""How long sslkit takes to start: its help, a recipe's check, and a run up to the end of its first step.

python benchmarks/startup.py
python benchmarks/startup.py --repetitions 10 --json startup.json

The commands take turns. Python alone and the import of torch stand beside them: nobody who computes with torch can be faster.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from measurement.environment import describe_environment, describe_in_a_line
from measurement.results import Spread, cell, plain, ratios, table, write_json
from measurement.script import Parser, positive, run_script
from sslkit.contract.errors import RunFailedError

ROOT = Path(__file__).parents[1]
FLOOR = "import torch"
_SSLKIT = ("-m", "sslkit")
_TOO_LONG = 300.0
"""Seconds after which a command is not waited for any more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run_script(lambda: _startup(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--repetitions", type=positive(int), default=5, help="of each command, after one that does not count (default 5)")
    return parser.parse_args(argv)


def _startup(arguments: argparse.Namespace) -> int:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for repetition in range(1 + arguments.repetitions):
        for name, measure in COMMANDS.items():
            taken = measure()
            if repetition:
                seconds[name].append(taken)
    spreads = {name: Spread.of(values) for name, values in seconds.items()}
    report = {
        "seconds": {name: plain(spread) for name, spread in spreads.items()},
        "over_import_torch": {name: plain(ratios(values, seconds[FLOOR])) for name, values in seconds.items()},
        "environment": describe_environment(),
    }
    write_json(arguments.json, report)
    rows = [[name, cell(ratios(values, seconds[FLOOR])), cell(spreads[name])] for name, values in seconds.items()]
    print(table(["command", f"over {FLOOR}", "seconds"], rows))
    print(f"\nmedian (minimum to maximum); {describe_in_a_line(report['environment'])}")
    return 0


def time_command(*arguments: str) -> float:
    """Seconds until Python has ended.

    Raises:
        RunFailedError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=_TOO_LONG)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RunFailedError(f"python {' '.join(arguments)}: {_last_line(done.stderr)}")
    return seconds


def time_first_step(recipe: Path) -> float:
    """Seconds from the start of a run to its first line of metrics, which is written after the first step.

    Raises:
        RunFailedError: the run ended before.
    """
    with TemporaryDirectory() as folder, (Path(folder) / "output").open("w+") as output:
        arguments = [*_SSLKIT, "run", str(recipe), "log_every=1", "--output", f"{folder}/run"]
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output, start_new_session=True)
        try:
            return _wait_for_metrics(Path(folder), process, output) - started
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_metrics(folder: Path, process: subprocess.Popen, output: IO[str]) -> float:
    deadline = time.perf_counter() + _TOO_LONG
    while not any(path.stat().st_size for path in folder.glob("run/*/metrics.jsonl")):
        if process.poll() is not None or time.perf_counter() > deadline:
            output.seek(0)
            raise RunFailedError(f"sslkit run: no first step; {_last_line(output.read())}")
        time.sleep(0.005)
    return time.perf_counter()


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


COMMANDS: dict[str, Callable[[], float]] = {
    "python": partial(time_command, "-c", "pass"),
    FLOOR: partial(time_command, "-c", FLOOR),
    "sslkit --help": partial(time_command, *_SSLKIT, "--help"),
    "sslkit check rotnet_cifar10": partial(time_command, *_SSLKIT, "check", str(ROOT / "recipes/rotnet_cifar10.toml")),
    "sslkit run quickstart, first step": partial(time_first_step, ROOT / "recipes/quickstart.toml"),
}


if __name__ == "__main__":
    sys.exit(main())
