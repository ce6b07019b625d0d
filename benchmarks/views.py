"""Two SimCLR views of each image: sslkit's whole batches against torchvision per image in workers, lightly's transform and kornia.

pip install kornia lightly                                   # what is missing is left out
python benchmarks/views.py --quick                           # two minutes
python benchmarks/views.py --json views.json
python benchmarks/views.py --device cuda                     # sslkit and kornia on a GPU

At 32 pixels (CIFAR), and at 224 out of decoded images of 256. All work on as many cores: sslkit and kornia in threads, the others in
workers, of which torch's DataLoader collates the batches. Of torchvision's two ways the faster one counts. Each variant runs in a process
of its own; they take turns, and ratios are taken round by round.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from measurement.environment import describe_environment, describe_in_a_line
from measurement.gate import Slice
from measurement.interleave import Plan, Record, interleave
from measurement.results import JobResult, Spread, cell, columns, plain, table, write_json
from measurement.script import Parser, positive, report_problems, run_script
from measurement.simclr_views import ENTRIES, Views, missing
from measurement.worker import Variant

PER_IMAGE = ("torchvision, PIL", "torchvision, tensors")
REFERENCES = (*PER_IMAGE, "lightly", "kornia")
SIZES = {
    "32 px": Views(size=32, canvas=32, batch_size=256, num_images=2_048),
    "224 px": Views(size=224, canvas=256, batch_size=64, num_images=256),
}
GOALS = {"32 px": 5.0, "224 px": 2.0}
"""How many times as fast as torchvision per image sslkit should be."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _arguments(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no CUDA device; allowed: --device cpu", file=sys.stderr)
        return 2
    return run_script(lambda: _views(arguments))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_plan()
    parser.add_argument("--only", action="append", choices=list(SIZES), help="a size; may be given several times")
    parser.add_argument("--variant", action="append", choices=list(ENTRIES), help="may be given several times")
    parser.add_argument("--workers", type=positive(int), default=2, help="processes of those who work per image (default 2)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of sslkit and kornia (default cpu)")
    return parser.parse_args(argv)


def _views(arguments: argparse.Namespace) -> int:
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    seconds = (1.0 if arguments.quick else 5.0) if arguments.seconds is None else arguments.seconds
    names = [name for name in ENTRIES if not arguments.variant or name in arguments.variant]
    results = {}
    for size, work in SIZES.items():
        if not arguments.only or size in arguments.only:
            changed = Views(**{**vars(work), "num_workers": arguments.workers, "device": torch.device(arguments.device)})
            variants = [Variant(name, ENTRIES[name], changed) for name in names if not missing(name)]
            records = interleave(variants, Plan(rounds, Slice(1, seconds), warm_up=Slice(2)))
            results[size] = JobResult(size, {name: records.get(name) or Record(problem=missing(name)) for name in names})
    report = build_report(results, {"rounds": rounds, "seconds": seconds, "workers": arguments.workers, "device": arguments.device})
    write_json(arguments.json, report)
    print(table(columns(REFERENCES), [row for result in results.values() for row in result.rows(REFERENCES)]) + "\n")
    for size, result in results.items():
        if faster := over_per_image(result):
            print(f"{size}: {cell(faster)} times as fast as the faster of torchvision's; goal: {GOALS[size]:g}")
    print(f"median (minimum to maximum) over the rounds; {describe_in_a_line(report['environment'])}")
    return report_problems(results)


def build_report(results: Mapping[str, JobResult], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, ratios first."""
    return {
        "over_per_image": {size: plain(over_per_image(result)) for size, result in results.items()},
        "goals": GOALS,
        "sizes": {size: result.as_json(REFERENCES) for size, result in results.items()},
        "environment": describe_environment(),
        "settings": dict(settings),
    }


def over_per_image(result: JobResult) -> Spread | None:
    """How many times as fast as the faster of torchvision's ways sslkit is; None where either was not measured."""
    rates = {name: rate for name in PER_IMAGE if (rate := result.rate(name))}
    return result.ratio("sslkit", max(rates, key=lambda name: rates[name].median)) if rates else None


if __name__ == "__main__":
    sys.exit(main())
