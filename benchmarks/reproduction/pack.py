"""Run folders in one small file, to go on elsewhere: what is needed to skip finished stages and to resume the others."""

import tarfile
from pathlib import Path

_KEPT = ("artifact.json", "environment.json", "results.json", "recipe.toml", "metrics.jsonl", "backbone.safetensors")


def export_runs(runs: Path, archive: Path) -> int:
    """Write an archive; returns its size in bytes. Heads, predictions and reports stay behind: nothing later needs them."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as file:
        for path in sorted(runs.rglob("*")):
            if path.name in _KEPT or path.name.startswith("checkpoint") or path.parent.name == "snapshots":
                file.add(path, path.relative_to(runs))
    return archive.stat().st_size


def import_runs(archive: Path, runs: Path) -> None:
    """Unpack an archive; only plain files inside ``runs`` are accepted."""
    runs.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as file:
        file.extractall(runs, filter="data")
