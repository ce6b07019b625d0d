"""What a slice brought home, taken into the documents: refused as a whole if anything in it could not be traced, and never twice."""

import re
import statistics
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gpu import gpu_table
from measurement.environment import describe_in_a_line
from reproduce import document
from reproduction.records import Record, load_records, save_records
from reproduction.tables import METHODS, Cell
from slicing.errors import SliceError
from slicing.layout import EARLIER, MAX_WEIGHTS, RECORDS, REFERENCE, RESULTS, RUNS, SLICE, SMOKE, SPEED, WEIGHTS
from slicing.results import read_result
from sslkit import load_recipe
from sslkit.contract.errors import ArtifactError
from sslkit.run.artifacts import read_weights
from sslkit.storage.json_files import write_json, write_text

ROOT = Path(__file__).parents[2]

LEDGER = "slices.json"
"""In docs/: every slice that was merged."""

BEGIN, END = "<!-- measured on a GPU: written by benchmarks/slice.py merge -->", "<!-- end of what was measured on a GPU -->"


def merge(results: Path, *, checkout: Path | None = None, rehearsal: bool = False) -> list[str]:
    """Take results into a checkout, and rewrite its documents.

    Args:
        results: that a slice wrote; parts that it lost are simply not there.
        checkout: into which; None: this one.
        rehearsal: accept what was rehearsed, for which ``checkout`` must be another one.

    Returns:
        What was taken over, a line each.

    Raises:
        SliceError: nothing was written: the results are damaged, lack what belongs beside them, or were merged before.
    """
    target = (checkout or ROOT).resolve()
    found = read_result(results / SLICE)
    _check_slice(results, found, target, rehearsal)
    ledger_path = target / "docs" / LEDGER
    ledger = read_result(ledger_path) if ledger_path.exists() else {"slices": []}
    if any(entry["id"] == found["id"] for entry in ledger["slices"]):
        raise SliceError(f"{results}: was merged before; docs/{LEDGER} has it")
    performance = target / "docs" / "performance.md"
    before, after = _around_gpu_section(performance)
    smoke, speed = (_read_report(results / name, rehearsal) for name in (SMOKE, SPEED))
    records = _read_records(results / RECORDS, rehearsal)
    with tempfile.TemporaryDirectory() as folder:
        weights = _read_weights(results / WEIGHTS, Path(folder), rehearsal)
        lines = [*_write(target, smoke, speed, records), *_write_binary(target, weights, results / RUNS)]
    write_text(target / "docs" / "results.md", document(load_records(target / "docs" / "results")))
    write_text(performance, f"{before}{BEGIN}\n{gpu_section(target / 'docs')}{END}{after}")
    environment = found["environment"]
    entry = {key: found[key] for key in ("id", "started", "commit", "minutes")}
    entry |= {"gpu": environment["gpu"], "versions": environment["versions"], "python": environment["python"]}
    entry["parts"] = {part: {key: facts.get(key) for key in ("status", "seconds")} for part, facts in found["parts"].items()}
    write_json(ledger_path, {"slices": [*ledger["slices"], entry]})  # last: a merge that was cut short can be repeated
    lines += [f"{path.name}: not taken over, no slice writes it" for path in sorted(results.iterdir()) if path.name not in RESULTS]
    return [*lines, f"{target / 'docs'}: rewritten; look at the changes, and commit them"]


def _check_slice(results: Path, found: Mapping[str, Any], target: Path, rehearsal: bool) -> None:
    if rehearsal and target == ROOT:
        raise SliceError("--rehearsal: what was rehearsed must not be taken for a result; give a copy of the checkout with --into")
    if found.get("rehearsal", True) != rehearsal:
        kind, fix = ("a rehearsal", "add --rehearsal --into COPY") if not rehearsal else ("no rehearsal", "leave out --rehearsal")
        raise SliceError(f"{results}: is {kind}; {fix}")
    _check_facts(results / SLICE, found.get("environment"), rehearsal)


def _check_facts(path: Path, environment: Any, rehearsal: bool) -> None:
    """A result is worth something only with its hardware, its versions and the commit that made it."""
    facts = environment if isinstance(environment, Mapping) else {}
    versions = facts.get("versions") or {}
    lacks = [
        *([] if facts.get("gpu") or rehearsal else ["the GPU's name"]),
        *(f"{name}'s version" for name in ("torch", "sslkit") if versions.get(name) in (None, "", "not installed")),
        *([] if _is_commit(facts.get("commit")) or (rehearsal and facts.get("commit")) else ["the commit of a clean checkout"]),
        *([] if facts.get("date") else ["the date"]),
    ]
    if lacks:
        raise SliceError(f"{path}: lacks {', '.join(lacks)}: it cannot be merged")


def _is_commit(commit: Any) -> bool:
    return isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,40}", commit) is not None


def _read_report(path: Path, rehearsal: bool) -> dict[str, Any] | None:
    if not path.exists():
        return None
    report = read_result(path)
    _check_facts(path, report.get("environment"), rehearsal)
    return report


def _read_records(path: Path, rehearsal: bool) -> list[Record]:
    """Some may be of an earlier slice, and of another GPU than this one's: those whose record was lost there."""
    if not path.exists():
        return []
    try:
        records = [Record(**record) for record in read_result(path)["records"]]
    except (KeyError, TypeError) as error:
        raise SliceError(f"{path}: damaged ({error}); copy the results again") from None
    for record in records:
        gpu = None if record.hardware.endswith(" threads") else record.hardware  # as a CPU is described
        _check_facts(path, {"gpu": gpu, "versions": record.versions, "commit": record.commit, "date": record.date}, rehearsal)
    return records


def _read_weights(path: Path, folder: Path, rehearsal: bool) -> list[Path]:
    """The network and its card, unpacked."""
    if not path.exists():
        return []
    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
        files = [folder / f"{REFERENCE}.{ending}" for ending in ("safetensors", "md")]
        origin = read_weights(files[0]).origin
    except (OSError, tarfile.TarError, ArtifactError) as error:
        raise SliceError(f"{path}: damaged ({' '.join(str(error).split())}); copy the results again") from None
    if strangers := sorted(found.name for found in folder.iterdir() if found not in files):
        raise SliceError(f"{path}: holds {', '.join(strangers)} beside the network and its card")
    if (size := files[0].stat().st_size) > MAX_WEIGHTS:
        raise SliceError(f"{path}: the network is too large; found {size:,} bytes; allowed {MAX_WEIGHTS:,}")
    facts = {"gpu": origin.get("device"), "versions": origin.get("versions"), "commit": origin.get("commit"), "date": origin.get("started")}
    _check_facts(path, facts, rehearsal)
    return files


def _write(target: Path, smoke: dict[str, Any] | None, speed: dict[str, Any] | None, records: list[Record]) -> list[str]:
    lines = []
    for name, report in (("gpu_smoke", smoke), ("gpu", speed)):
        if report is not None:
            write_json(target / "docs" / "performance" / f"{name}.json", report)
            lines.append(f"docs/performance/{name}.json")
    folder = target / "docs" / "results"
    known = load_records(folder)
    lines += [f"docs/results/{record.recipe}.json: {record.metric} {record.value}" for record in records]
    save_records(folder, (known | {record.cell: record for record in records}).values())
    return lines


def _write_binary(target: Path, weights: list[Path], runs: Path) -> list[str]:
    lines = []
    for source in weights:
        path = target / "recipes" / "weights" / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
        lines.append(f"recipes/weights/{source.name}")
    if runs.exists():
        (target / "benchmarks" / EARLIER).write_bytes(runs.read_bytes())
        lines.append(f"benchmarks/{EARLIER}: runs that the next slice resumes")
    return lines


def _around_gpu_section(path: Path) -> tuple[str, str]:
    """What stands before and after the part of docs/performance.md that is written here."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SliceError(f"{path}: lacks the lines between which this is written: {BEGIN} and {END}")
    return before, after


def gpu_section(docs: Path) -> str:
    """What docs/performance.md says of GPUs, from ``performance/gpu*.json`` and the records."""
    reports = {
        name: read_result(path) if (path := docs / "performance" / f"{name}.json").exists() else None for name in ("gpu", "gpu_smoke")
    }
    records = {cell: record for cell, record in load_records(docs / "results").items() if not cell.recipe.endswith("_cpu")}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, autoescape=False)
    return environment.get_template("gpu.md.jinja").render(
        speed=reports["gpu"],
        smoke=reports["gpu_smoke"],
        table=gpu_table(reports["gpu"]) if reports["gpu"] else "",
        goals=goals(reports["gpu"], records, _trained_in(docs.parent)),
        describe=describe_in_a_line,
    )


def _trained_in(checkout: Path) -> float | None:
    path = checkout / "recipes" / "weights" / f"{REFERENCE}.safetensors"
    return read_weights(path).origin["seconds"] if path.exists() else None


def goals(speed: Mapping[str, Any] | None, records: Mapping[Cell, Record], trained_in: float | None) -> list[tuple[str, str, str]]:
    """Each goal, whether it was reached, and the result that says so.

    Args:
        speed: the report of the speed part, if there is one.
        records: at the paper's size.
        trained_in: seconds that the reference network's pretraining took, if it was; else they are projected from the rate.
    """
    variants = (speed or {}).get("jobs", {}).get("pretrain", {})
    projected = [variants[name]["s_per_100_epochs"] for name in _OURS if "s_per_100_epochs" in variants.get(name, {})]
    seconds, how = (min(projected, default=None), "{:.0f} s, projected") if trained_in is None else (trained_in, "{:.0f} s")
    probe = records.get(Cell(REFERENCE, "conv_probe.conv2.top1"))
    text = "RotNet's 100 epochs in at most 150 s, aiming for 100; compiling counted in"
    return [
        (text, *_judged(seconds, lambda found: found <= 150, how)),
        ("the conv probe's 100 epochs in at most 40 s", *_judged(probe and probe.seconds, lambda found: found <= 40, "{:.0f} s")),
        ("at least 0.97 of the resident limit", *_judged(_over_limit(variants), lambda found: found >= 0.97, "{:.3f}")),
        ("no host sync in a step", *_judged((speed or {}).get("syncs_per_step"), lambda found: found == 0, "{:g} a step")),
        ("two SimCLR views in under 2 % of a step", *_judged(_views(speed or {}), lambda found: found < 2, "{:.1f} %")),
        ("the paper's comparison within 0.5 points", *_against_the_paper(records)),
    ]


_OURS, _LIMITS = ("eager", "compiled", "CUDA graphs"), ("limit", "limit, CUDA graphs")


def _over_limit(variants: Mapping[str, Any]) -> float | None:
    """Our best way over the best limit: median of the rounds."""
    ours, limits = (
        [rates for name in names if (rates := variants.get(name, {}).get("images_per_s_by_round"))] for names in (_OURS, _LIMITS)
    )
    if not ours or not limits:
        return None
    best, limit = (max(rates, key=statistics.median) for rates in (ours, limits))
    return statistics.median(one / other for one, other in zip(best, limit, strict=False))


def _views(speed: Mapping[str, Any]) -> float | None:
    """Percent of a step that views take where they take most."""
    return max(speed.get("views_percent", {}).values(), default=None)


def _judged(found: float | None, reached: Callable[[float], bool], words: str) -> tuple[str, str]:
    if found is None:
        return "not measured", ""
    return _VERDICTS[reached(found)], words.format(found)


_VERDICTS = {True: "yes", False: "**no**"}


def _against_the_paper(records: Mapping[Cell, Record]) -> tuple[str, str]:
    paper = load_recipe(ROOT / "recipes" / f"{REFERENCE}.toml").paper
    found = {method: records[cell] for method, metric in METHODS.items() if (cell := Cell(REFERENCE, metric)) in records}
    if not found:
        return "not measured", ""
    differences = {method: record.value - paper[record.metric] for method, record in found.items()}
    verdict = _VERDICTS[all(abs(difference) <= 0.5 for difference in differences.values())]
    shown = ", ".join(f"{method} {difference:+.2f}" for method, difference in differences.items())
    return verdict if len(found) == len(METHODS) else f"{verdict} so far", f"{shown}; {next(iter(found.values())).data}"
