"""Run folders in one small file, to be resumed elsewhere: what is needed to skip finished stages and to resume the others."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from sslkit.run.artifacts import ARTIFACT, BACKBONE, SNAPSHOTS
from sslkit.storage.json_files import read_json

_RECORDS = ("results.json", "recipe.toml")
"""Of a run. Heads, predictions and reports stay behind: nothing later needs them."""


def export_runs(runs: Path, archive: Path, *, max_bytes: int | None = None) -> int:
    """Write an archive.

    Args:
        runs: holds the run folders.
        archive: the file.
        max_bytes: of the archive; stages that do not fit are left out and will run again. Pretraining, which takes longest, is packed first.

    Returns:
        Its size in bytes.
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    left = float("inf") if max_bytes is None else max_bytes
    with tarfile.open(archive, "w:") as file:
        for paths in [sorted(path for name in _RECORDS for path in runs.rglob(name)), *_stages(runs)]:
            size = sum(_size_in_tar(path) for path in paths)
            if size + tarfile.RECORDSIZE > left:
                continue
            left -= size
            for path in paths:
                file.add(path, path.relative_to(runs))
    return archive.stat().st_size


def import_runs(archive: Path, runs: Path) -> None:
    """Unpack an archive; only plain files inside ``runs`` are accepted."""
    runs.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as file:
        file.extractall(runs, filter="data")


def _stages(runs: Path) -> Iterator[list[Path]]:
    """The files of each stage: pretraining before evaluations, and each of equal stages once."""
    artifacts = {path: read_json(path) for path in sorted(runs.rglob(ARTIFACT))}
    seen = set()
    for path in sorted(artifacts, key=lambda path: artifacts[path]["kind"] != "pretrain"):
        if artifacts[path]["fingerprint"] not in seen:
            seen.add(artifacts[path]["fingerprint"])
            kept = ("metrics.jsonl", "checkpoint*", BACKBONE, f"{SNAPSHOTS}/*")
            yield sorted([path, *(found for pattern in kept for found in path.parent.glob(pattern))])


def _size_in_tar(path: Path) -> int:
    """Blocks of 512 bytes, one of them for the header, or three where the name is long."""
    return 512 * (-(-path.stat().st_size // 512) + 3)
