"""Speed on a CUDA device: the part of its peak that is used, against the compute limit and the job as commonly written, and the time of
100 epochs on CIFAR-10, for pretraining and the convolutional probe.

python benchmarks/gpu.py --quick
python benchmarks/gpu.py --json gpu.json

Model FLOP utilisation counts what the model needs, and nothing that is computed twice or wasted, against the dense bfloat16 peak.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from measurement.environment import describe_environment, describe_in_a_line
from measurement.flops import flops_per_image, peak_of
from measurement.jobs import measure
from measurement.results import JobResult, Spread, cell, number, plain, table, write_json
from measurement.script import Parser, plan, report_problems, run_script, workload
from measurement.workload import JobName

JOBS: tuple[JobName, ...] = ("pretrain", "conv_probe")
VARIANTS = ("limit", "sslkit", "common")
REFERENCES = ("limit", "common")
EPOCH = 50_000
"""Images of CIFAR-10."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _arguments(argv)
    if not torch.cuda.is_available():
        print("error: torch sees no CUDA device; benchmarks/throughput.py measures on a CPU", file=sys.stderr)
        return 2
    return run_script(lambda: _gpu(arguments))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_plan()
    parser.add_sizes()
    return parser.parse_args(argv)


def _gpu(arguments: argparse.Namespace) -> int:
    results: dict[str, JobResult] = {}
    flops: dict[str, float] = {}
    with workload(arguments) as common:
        for job in JOBS:
            flops[job] = flops_per_image(replace(common, job=job))
            results[job] = measure(replace(common, job=job), VARIANTS, plan(arguments, seconds=2.0 if arguments.quick else None))
    report = build_report(results, flops, torch.cuda.get_device_name())
    write_json(arguments.json, report)
    _show(report)
    return report_problems(results)


def build_report(results: Mapping[str, JobResult], flops: Mapping[str, float], gpu: str) -> dict[str, Any]:
    """Everything, by job and variant."""
    peak = peak_of(gpu)
    jobs = {job: result.as_json(REFERENCES) for job, result in results.items()}
    for job, result in results.items():
        for variant in result.records:
            jobs[job][variant] |= use_of(result.rate(variant), flops[job], peak)
    return {"jobs": jobs, "flop_per_image": dict(flops), "gpu": gpu, "peak_flop_per_s": peak, "environment": describe_environment()}


def use_of(rate: Spread | None, flops: float, peak: float | None) -> dict[str, Any]:
    """What a rate means.

    Args:
        rate: source images a second.
        flops: of one source image.
        peak: FLOP/s of the GPU, if it is known.
    """
    if rate is None:
        return {}
    return {
        "mfu": plain(rate.times(flops / peak)) if peak else None,
        "tflop_per_s": plain(rate.times(flops / 1e12)),
        "s_per_epoch": EPOCH / rate.median,
        "s_per_100_epochs": 100 * EPOCH / rate.median,
    }


def _show(report: Mapping[str, Any]) -> None:
    heads = [
        "job",
        "variant",
        "MFU",
        "over limit",
        "over common",
        "TFLOP/s",
        "images/s",
        "s an epoch",
        "s for 100",
        "peak GPU, MiB",
        "problem",
    ]
    keys = ["mfu", "over_limit", "over_common", "tflop_per_s", "images_per_s", "s_per_epoch", "s_per_100_epochs", "peak_gpu_mib"]
    rows = [
        [job, variant, *(_text(described.get(key)) for key in keys), described.get("problem", "")]
        for job, variants in report["jobs"].items()
        for variant, described in variants.items()
    ]
    print(table(heads, rows))
    if report["peak_flop_per_s"] is None:
        print(f"\nthe peak of this GPU ({report['gpu']}) is not in the table of benchmarks/measurement/flops.py: no MFU")
    print(f"\nmedian (minimum to maximum) over the rounds; {describe_in_a_line(report['environment'])}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return cell(Spread(**value))
    return "" if value is None else number(value)


if __name__ == "__main__":
    sys.exit(main())
