"""How sslkit's speed changes with the data, the batch, the image and the number of probed layers.

python benchmarks/scaling.py --quick
python benchmarks/scaling.py --json scaling.json                 # about half an hour on two cores
python benchmarks/scaling.py --width 0.25 --batch-size 32        # less memory: all points of an axis are in memory together

The points of an axis take turns, each in a process of its own, and are set against the first of them. Image sizes are compared with
batches of as many pixels.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from measurement.environment import describe_environment, describe_in_a_line
from measurement.interleave import interleave
from measurement.jobs import ENTRIES
from measurement.results import JobResult, cell, number, plain, table, write_json
from measurement.script import Parser, plan, report_problems, run_script, workload
from measurement.worker import Variant
from measurement.workload import JobName, Workload

DATA_SIZES = (1_000, 10_000, 50_000, 100_000)
IMAGE_SIZES = (32, 64, 96)
LAYERS = ("conv1", "conv2", "conv3", "conv4")
PROBES: tuple[JobName, ...] = ("linear_probe", "mlp_probe", "conv_probe")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return run_script(lambda: _scaling(_arguments(argv)))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_plan()
    parser.add_sizes()
    return parser.parse_args(argv)


def _scaling(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        base = stack.enter_context(workload(arguments))
        axes = {
            "data size": data_sizes(arguments, stack),
            "batch size": batch_sizes(base),
            "image size": image_sizes(arguments, stack),
            **{f"{probe}, layers": layers(replace(base, job=probe)) for probe in PROBES},
        }
        results = {axis: _measure(axis, _ends(points) if arguments.quick else points, arguments) for axis, points in axes.items()}
    report = {
        "four_layers_over_deepest_alone": {probe: plain(results[f"{probe}, layers"].ratio("1", over="4")) for probe in PROBES},
        "axes": {axis: result.as_json([_first(result)]) for axis, result in results.items()},
        "environment": describe_environment(),
        "settings": {"width": arguments.width, "batch_size": arguments.batch_size, "quick": arguments.quick},
    }
    write_json(arguments.json, report)
    _show(results)
    print(f"\nmedian (minimum to maximum) over the rounds; {describe_in_a_line(report['environment'])}")
    return report_problems(results)


def data_sizes(arguments: argparse.Namespace, stack: ExitStack) -> dict[str, Workload]:
    """Pretraining on more and more images; no fewer than a batch."""
    sizes = sorted({max(size, arguments.batch_size) for size in DATA_SIZES if size <= 2 * arguments.images})
    return {str(size): stack.enter_context(workload(arguments, images=size)) for size in sizes or [arguments.images]}


def batch_sizes(base: Workload) -> dict[str, Workload]:
    """Pretraining with a quarter of the batch up to the double."""
    sizes = sorted({max(2, int(base.batch_size * factor)) for factor in (0.25, 0.5, 1, 2)})
    return {str(size): replace(base, batch_size=size) for size in sizes if size <= len(base.images("train"))}


def image_sizes(arguments: argparse.Namespace, stack: ExitStack) -> dict[str, Workload]:
    """Pretraining on larger and larger images, in batches of as many pixels."""
    points = {}
    for size in IMAGE_SIZES:
        batch_size = max(2, round(arguments.batch_size * (IMAGE_SIZES[0] / size) ** 2))
        made = stack.enter_context(workload(arguments, images=max(1_000, arguments.batch_size), size=size))
        points[str(size)] = replace(made, batch_size=batch_size)
    return points


def layers(probe: Workload) -> dict[str, Workload]:
    """The deepest layer alone, then with more and more above it: the forward pass is as deep for all."""
    return {str(count): replace(probe, layers=LAYERS[-count:]) for count in range(1, len(LAYERS) + 1)}


def _ends(points: dict[str, Workload]) -> dict[str, Workload]:
    names = list(points)
    return {name: points[name] for name in (names[0], names[-1])}


def _measure(axis: str, points: dict[str, Workload], arguments: argparse.Namespace) -> JobResult:
    return JobResult(axis, interleave([Variant(name, ENTRIES["sslkit"], point) for name, point in points.items()], plan(arguments)))


def _first(result: JobResult) -> str:
    return next(iter(result.records))


def _show(results: dict[str, JobResult]) -> None:
    for probe in PROBES:
        print(f"{probe}: time for four layers over the deepest alone: {cell(results[f'{probe}, layers'].ratio('1', over='4'))}")
    heads = ["axis", "point", "over the first", "images/s", "peak RSS, MiB"]
    rows = []
    for axis, result in results.items():
        for name, record in result.records.items():
            figures = [cell(result.ratio(name, _first(result))), record.problem or cell(result.rate(name))]
            rows.append([axis, name, *figures, number(record.slices[-1].peak_rss / 2**20) if record.slices else ""])
    print("\n" + table(heads, rows))


if __name__ == "__main__":
    sys.exit(main())
