"""What a run leaves: in which moment it was when it was killed, and whether it ended as one that was not."""

import json
from pathlib import Path
from typing import Any

from sslkit.run.artifacts import ARTIFACT, METRICS
from sslkit.storage.atomic import find_unfinished
from sslkit.storage.metrics_log import read_metrics


def moment_of(folder: Path) -> str:
    """What a run was doing when it was killed, as its folder tells."""
    if find_unfinished(folder):
        return "while a file was written"
    if not (folder / "recipe.toml").exists():
        return "before the first stage"
    artifacts = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob(ARTIFACT)]
    running = [artifact for artifact in artifacts if artifact["status"] == "running"]
    if running:
        method = running[0]["identity"].get("evaluator")
        return "in pretraining" if method is None else f"in {method['class'].rpartition(':')[2]}"
    results = folder / "results.json"
    pending = json.loads(results.read_text(encoding="utf-8"))["pending"] if results.exists() else ["all"]
    return "between stages" if pending else "in the report"


def differences(found: Path, expected: Path) -> list[str]:
    """In what a run's folder differs from another's, bit by bit; empty if in nothing that counts."""
    problems = [f"{path.relative_to(found)}: left behind" for path in find_unfinished(found)]
    problems += _compare("weights", _tensors(found), _tensors(expected))
    problems += _compare("results.json", _json(found / "results.json"), _json(expected / "results.json"))
    problems += _compare("metrics", _metrics(found), _metrics(expected))
    problems += _compare("fingerprints", _fingerprints(found), _fingerprints(expected))
    if not (found / "report.html").exists():
        problems.append("report.html: missing")
    return problems


def _compare(what: str, found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    keys = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
    return [f"{what}: {', '.join(keys)}"] if keys else []


def _tensors(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _metrics(folder: Path) -> dict[str, Any]:
    """Every line but for its throughput."""
    return {
        path.relative_to(folder).as_posix(): sorted(
            json.dumps({key: value for key, value in line.items() if key != "images_per_second"}) for line in read_metrics(path)
        )
        for path in folder.rglob(METRICS)
    }


def _fingerprints(folder: Path) -> dict[str, Any]:
    artifacts = {path.parent.relative_to(folder).as_posix(): _json(path) for path in folder.rglob(ARTIFACT)}
    return {key: (artifact["status"], artifact["fingerprint"], artifact["metrics"]) for key, artifact in artifacts.items()}
