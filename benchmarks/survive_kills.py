"""Kills runs at random times and right before random writes, starts them again, and compares what they leave with a run that nothing
happened to: weights byte by byte, metrics, results.

python benchmarks/survive_kills.py --quick
python benchmarks/survive_kills.py --json docs/reliability/kills.json
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from measurement.environment import describe_environment, describe_in_a_line
from measurement.results import table, write_json
from survival.trial import Trial
from survival.variants import VARIANTS


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if anything was lost."""
    arguments = _arguments(argv)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="sslkit-kills-"))
    trials = {name: _survive(name, folder, arguments) for name in arguments.variants}
    if not any(trial.toll.problems for trial in trials.values()):
        shutil.rmtree(folder)
    report = {
        "variants": {
            name: {
                "kills": dict(trial.toll.kills),
                "runs": trial.toll.runs,
                "moments": dict(sorted(trial.toll.moments.items())),
                "problems": trial.toll.problems,
                "writes": trial.writes,
            }
            for name, trial in trials.items()
        },
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began),
        "environment": describe_environment(),
    }
    if arguments.json:
        write_json(arguments.json, report)
    _show(trials)
    print(f"\n{describe_in_a_line(report['environment'])}")
    return int(any(trial.toll.problems for trial in trials.values()))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=25, help="kills of each variant at random times (default 25)")
    parser.add_argument("--writes", type=int, default=25, help="kills of each variant right before random writes (default 25)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="which (default all)")
    parser.add_argument("--seed", type=int, default=0, help="of the times (default 0)")
    parser.add_argument("--quick", action="store_true", help="two kills of each kind and variant")
    parser.add_argument("--json", type=Path, help="write the report there")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.times = arguments.writes = 2
    return arguments


def _survive(name: str, folder: Path, arguments: argparse.Namespace) -> Trial:
    trial = Trial(name, VARIANTS[name], folder, arguments.seed)
    trial.run_whole()
    print(f"{name}: {trial.seconds:.0f} s undisturbed, {trial.writes} writes", file=sys.stderr)
    trial.survive(times=arguments.times, writes=arguments.writes)
    print(f"{name}: killed {sum(trial.toll.kills.values())} times, {len(trial.toll.problems)} problems", file=sys.stderr)
    return trial


def _show(trials: dict[str, Trial]) -> None:
    heads = ["variant", "kills at a random time", "right before a random write", "runs that ended", "writes of a run", "differences"]
    tolls = {name: trial.toll for name, trial in trials.items()}
    print(table(heads, [_row(name, trial) for name, trial in trials.items()]))
    moments = sum((toll.moments for toll in tolls.values()), start=Counter())
    print()
    print(table(["killed", "times"], [[moment, str(count)] for moment, count in moments.most_common()]))
    for name, toll in tolls.items():
        for problem in toll.problems:
            print(f"{name}: {problem}")


def _row(name: str, trial: Trial) -> list[str]:
    kills = trial.toll.kills
    counts = (kills["a random time"], kills["a random write"], trial.toll.runs, trial.writes, len(trial.toll.problems))
    return [name, *map(str, counts)]


if __name__ == "__main__":
    sys.exit(main())
