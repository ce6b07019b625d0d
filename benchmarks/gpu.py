"""Speed on a CUDA device: eager, compiled and as CUDA graphs, against the compute limit and the job as commonly written: images a second,
the part of the GPU's peak that is used, and the time of 100 epochs on CIFAR-10 with what comes before the first step counted in.

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
from measurement.gate import Slice
from measurement.interleave import Plan, Record
from measurement.jobs import measure
from measurement.results import JobResult, Spread, cell, number, plain, table, write_json
from measurement.script import Parser, positive, report_problems, run_script, workload
from measurement.syncs import syncs_per_step
from measurement.view_share import cases, view_percent
from measurement.workload import JobName

JOBS: tuple[JobName, ...] = ("pretrain", "conv_probe")
VARIANTS = ("eager", "compiled", "CUDA graphs", "limit", "limit, CUDA graphs", "common")
REFERENCES = ("limit", "limit, CUDA graphs", "common")
EPOCH = 50_000
"""Images of CIFAR-10."""

_WARM_UP_STEPS = 400
"""An epoch of CIFAR-10: what its smaller last batch needs is not seen before."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = _arguments(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no CUDA device; benchmarks/throughput.py measures on a CPU", file=sys.stderr)
        return 2
    return run_script(lambda: _gpu(arguments))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_plan()
    parser.add_sizes()
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS, help="which (default: both)")
    parser.add_argument(
        "--ready-within", type=positive(float), default=300.0, help="seconds in which a variant must have warmed up (default 300)"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to rehearse")
    return parser.parse_args(argv)


def _gpu(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    results: dict[str, JobResult] = {}
    flops: dict[str, float] = {}
    report: dict[str, Any] = {}

    def keep(result: JobResult) -> None:
        """Everything so far, after each round: who stops this script has what was measured until then."""
        results[result.job] = result
        report.update(build_report(results, flops, torch.cuda.get_device_name() if device.type == "cuda" else "", arguments.batch_size))
        write_json(arguments.json, report)

    with workload(arguments) as common:
        for job in arguments.jobs:
            work = replace(common, job=job, device=device)
            flops[job] = flops_per_image(replace(work, device=torch.device("cpu")))
            keep(measure(work, VARIANTS, _plan(arguments), on_round=keep))
        if device.type == "cuda":
            report["syncs_per_step"] = syncs_per_step(replace(common, device=device))
            write_json(arguments.json, report)
            report["views_percent"] = {name: view_percent(*case) for name, case in cases(device).items()}
            write_json(arguments.json, report)
    _show(report)
    return report_problems(results)


def _plan(arguments: argparse.Namespace) -> Plan:
    """All variants warm up together, for a GPU machine has cores for that, and its minutes are dear."""
    rounds = arguments.rounds or (3 if arguments.quick else 5)
    seconds = (1.5 if arguments.quick else 5.0) if arguments.seconds is None else arguments.seconds
    warm_up = Slice(_WARM_UP_STEPS if arguments.device == "cuda" else 2)
    return Plan(rounds, Slice(1, seconds), warm_up=warm_up, pause=0.3, ready_within=arguments.ready_within)


def build_report(results: Mapping[str, JobResult], flops: Mapping[str, float], gpu: str, batch_size: int) -> dict[str, Any]:
    """Everything, by job and variant.

    Images are source images: pretraining sees each in four views.

    Args:
        results: by job.
        flops: of one source image, by job.
        gpu: its name; empty where there is none.
        batch_size: source images a step.
    """
    peak = peak_of(gpu)
    jobs = {job: result.as_json(REFERENCES) for job, result in results.items()}
    for job, result in results.items():
        for variant, record in result.records.items():
            jobs[job][variant] |= use_of(result.rate(variant), flops[job], peak, before=record.before_first)
    compared = {job: result for job, result in results.items() if result.rate("eager") and result.rate("compiled")}
    steps = {job: compiling_pays_from(result.records, batch_size) for job, result in compared.items()}
    return {
        "jobs": jobs,
        "compiling_pays_from_steps": steps,
        "flop_per_image": dict(flops),
        "batch_size": batch_size,
        "gpu": gpu,
        "peak_flop_per_s": peak,
        "environment": describe_environment(),
    }


def use_of(rate: Spread | None, flops: float, peak: float | None, *, before: float | None) -> dict[str, Any]:
    """What a rate means.

    Args:
        rate: source images a second.
        flops: of one source image.
        peak: FLOP/s of the GPU, if it is known.
        before: seconds from the start of the process to the end of its first step.
    """
    if rate is None:
        return {}
    return {
        "mfu": plain(rate.times(flops / peak)) if peak else None,
        "tflop_per_s": plain(rate.times(flops / 1e12)),
        "s_per_epoch": EPOCH / rate.median,
        "s_to_first_step": before,
        "s_per_100_epochs": 100 * EPOCH / rate.median + (before or 0.0),
    }


def compiling_pays_from(records: Mapping[str, Record], batch_size: int) -> int | None:
    """The optimizer steps after which the compiled variant has caught up with the eager one; None: it never does."""
    eager, compiled = records["eager"], records["compiled"]
    delay = (compiled.before_first or 0.0) - (eager.before_first or 0.0)
    gain = batch_size / (sum(eager.rates) / len(eager.rates)) - batch_size / (sum(compiled.rates) / len(compiled.rates))
    return None if gain <= 0 else max(0, round(delay / gain))


def _show(report: Mapping[str, Any]) -> None:
    print(gpu_table(report))
    if report["peak_flop_per_s"] is None:
        print(f"\nthe peak of this GPU ({report['gpu']}) is not in the table of benchmarks/measurement/flops.py: no MFU")
    for job, steps in report["compiling_pays_from_steps"].items():
        print(f"\n{job}: compiling {'does not pay' if steps is None else f'pays from {steps:,} steps on'}")
    if "syncs_per_step" in report:
        print(f"\nhost syncs in a step of pretraining: {report['syncs_per_step']}")
    for name, percent in report.get("views_percent", {}).items():
        print(f"\ntwo SimCLR views, {name}: {percent:.1f} % of a step")
    print(f"\nmedian (minimum to maximum) over the rounds; {describe_in_a_line(report['environment'])}")


def gpu_table(report: Mapping[str, Any]) -> str:
    """The variants of each job, as Markdown."""
    heads = ["job", "variant", "MFU", *(f"over {name}" for name in REFERENCES), "TFLOP/s", "source images/s", "s to the first step"]
    heads += ["s for 100 epochs", "peak GPU, MiB", "problem"]
    keys = ["mfu", *(f"over_{name}" for name in REFERENCES), "tflop_per_s", "images_per_s", "s_to_first_step"]
    keys += ["s_per_100_epochs", "peak_gpu_mib"]
    rows = [
        [job, variant, *(_text(described.get(key)) for key in keys), described.get("problem", "")]
        for job, variants in report["jobs"].items()
        for variant, described in variants.items()
    ]
    return table(heads, rows)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return cell(Spread(**value))
    return "" if value is None else number(value)


if __name__ == "__main__":
    sys.exit(main())
