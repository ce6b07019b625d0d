"""Speed of every job, set against its compute limit, the job as commonly written, and lightly where it is installed.

python benchmarks/throughput.py --quick                          # two minutes: pretraining, data path, frozen features
python benchmarks/throughput.py --json speed.json                # everything, about half an hour on two cores
python benchmarks/throughput.py --only pretrain --only knn       # some jobs
python benchmarks/throughput.py --only pretrain --variant limit --variant sslkit
python benchmarks/throughput.py --width 0.25 --batch-size 32     # a smaller network
python benchmarks/throughput.py --data FOLDER                    # images of your own: FOLDER/train, FOLDER/test

Each variant runs in a process of its own; they take turns, and ratios are taken round by round. See benchmarks/measurement/.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measurement.environment import describe_environment, describe_in_a_line
from measurement.interleave import Plan
from measurement.jobs import ENTRIES, QUICK, VARIANTS, measure
from measurement.overhead import Overhead, measure_overhead
from measurement.results import JobResult, cell, columns, plain, table, write_json
from measurement.script import Parser, plan, report_problems, run_script, workload
from measurement.workload import JobName

REFERENCES = ("limit", "common")
OVERHEAD = "overhead"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run_script(lambda: _throughput(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_plan()
    parser.add_sizes()
    parser.add_argument("--only", action="append", choices=[*VARIANTS, OVERHEAD], help="a job; may be given several times")
    parser.add_argument("--variant", action="append", choices=list(ENTRIES), help="of the jobs; may be given several times")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="a folder of images (default: random ones, which are as fast)")
    return parser.parse_args(argv)


def _throughput(arguments: argparse.Namespace) -> int:
    jobs: dict[JobName, tuple[str, ...]] = {**VARIANTS, **(QUICK if arguments.quick else {})}
    wanted = arguments.only or (list(QUICK) if arguments.quick else [*VARIANTS, OVERHEAD])
    results: dict[str, JobResult] = {}
    overhead: Overhead | None = None
    with workload(arguments, root=arguments.data) as common:
        for job, variants in jobs.items():
            if job in wanted:
                chosen = [name for name in variants if not arguments.variant or name in arguments.variant]
                results[job] = measure(replace(common, job=job), chosen, _plan(arguments, job))
        if OVERHEAD in wanted:
            overhead = measure_overhead(common, plan(arguments, seconds=1.0))
    report = build_report(results, overhead, settings(arguments))
    write_json(arguments.json, report)
    _show(results)
    if overhead:
        print("\n".join(filter(None, overhead.lines(_step_seconds(results)))))
    print(f"median (minimum to maximum) over the rounds; {describe_in_a_line(report['environment'])}")
    return 1 if overhead and overhead.problem else report_problems(results)


def _plan(arguments: argparse.Namespace, job: JobName) -> Plan:
    """Quick: a step of pretraining takes seconds, and one is enough; of the other jobs it takes milliseconds."""
    return plan(arguments, seconds=1.0 if arguments.quick and job != "pretrain" else None)


def build_report(results: Mapping[str, JobResult], overhead: Overhead | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, ratios first. A figure of a job that did not run is None."""
    pretraining = results.get("pretrain")
    return {
        "end_to_end_over_limit": plain(pretraining.ratio("sslkit", "limit")) if pretraining else None,
        "end_to_end_over_common": plain(pretraining.ratio("sslkit", "common")) if pretraining else None,
        "data_path_images_per_s": _rate(results, "data_path"),
        "frozen_conv2_images_per_s": _rate(results, "features"),
        "jobs": {job: result.as_json(REFERENCES) for job, result in results.items()},
        "overhead": overhead.as_json(_step_seconds(results)) if overhead else None,
        "environment": describe_environment(),
        "settings": dict(settings),
    }


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, without the names of folders."""
    kept = {name: getattr(arguments, name) for name in ("quick", "width", "batch_size", "images", "rounds", "seconds", "only", "variant")}
    return {**kept, "data": "random" if arguments.data is None else "folder"}


def _rate(results: Mapping[str, JobResult], job: str) -> dict[str, float] | None:
    return plain(results[job].rate("sslkit")) if job in results else None


def _step_seconds(results: Mapping[str, JobResult]) -> list[float]:
    """Of pretraining end to end, by round; empty if it did not run."""
    return results["pretrain"].step_seconds("sslkit") if "pretrain" in results else []


def _show(results: Mapping[str, JobResult]) -> None:
    if pretraining := results.get("pretrain"):
        headlines = {
            "end to end over the limit": pretraining.ratio("sslkit", "limit"),
            "end to end over the job as commonly written": pretraining.ratio("sslkit", "common"),
        }
        print("\n".join(f"{name}: {cell(spread)}" for name, spread in headlines.items() if spread) + "\n")
    if results:
        print(table(columns(REFERENCES), [row for result in results.values() for row in result.rows(REFERENCES)]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
