"""Where the time of a step of pretraining goes, by torch's profiler.

python benchmarks/step_profile.py                                # the paper's network and batch
python benchmarks/step_profile.py --width 0.25 --batch-size 32 --json profile.json

The steps are those of sslkit's own loop, not compiled. The same number of steps is timed before and after without the profiler, which
can slow steps down on a CPU: where the two times differ by much, read the percents and not the milliseconds.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from measurement.environment import describe_environment, describe_in_a_line
from measurement.groups import BACKWARD, seconds_by_group
from measurement.results import number, table, write_json
from measurement.script import Parser, positive, run_script, workload
from measurement.steps import Steps, train
from sslkit.contract.runtime import Runtime
from sslkit.training.device import configured


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run_script(lambda: _profile(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_sizes()
    parser.add_argument("--steps", type=positive(int), default=5, help="with the profiler, and twice as many without (default 5)")
    return parser.parse_args(argv)


def _profile(arguments: argparse.Namespace) -> int:
    with workload(arguments) as work, configured(Runtime(), work.device):
        steps = Steps(work.device, arguments.steps)
        share = train(work, steps)
    report = build_report(steps, share)
    write_json(arguments.json, report)
    _show(report)
    return 0


def build_report(steps: Steps, data_share: float) -> dict[str, Any]:
    """Milliseconds and percent of a step by group, and the step with the profiler and without."""
    profiled, plain = steps.of("profiled"), steps.of("plain")
    on_device = steps.device.type == "cuda"
    sums = seconds_by_group(steps.profiler.events() or [], sum(profiled), on_device=on_device)
    backward = sums.pop(BACKWARD)
    sums = {f"{BACKWARD}, data": backward * data_share, f"{BACKWARD}, weights": backward * (1 - data_share), **sums}
    groups = {name: {"ms": 1000 * seconds / len(profiled), "percent": 100 * seconds / sum(profiled)} for name, seconds in sums.items()}
    return {
        "groups": dict(sorted(groups.items(), key=lambda item: -item[1]["ms"])),
        "profiled_step_ms": 1000 * statistics.median(profiled),
        "plain_step_ms": 1000 * statistics.median(plain),
        "profiled_over_plain": statistics.median(profiled) / statistics.median(plain),
        "environment": describe_environment(),
    }


def _show(report: dict[str, Any]) -> None:
    rows = [[name, number(row["ms"]), number(row["percent"])] for name, row in report["groups"].items() if row["ms"]]
    total = sum(row["ms"] for row in report["groups"].values())
    print(table(["part of a step", "ms", "%"], [*rows, ["all", number(total), "100"]]))
    print(f"\na step with the profiler: {number(report['profiled_step_ms'])} ms, without: {number(report['plain_step_ms'])} ms")
    print(describe_in_a_line(report["environment"]))


if __name__ == "__main__":
    sys.exit(main())
