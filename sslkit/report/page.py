"""``report.html``: one self-contained page of a run, with nothing fetched from anywhere."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from sslkit.artifacts import ARTIFACT, read_json, write_text
from sslkit.report.results import Results


def write_page(folder: Path) -> Path:
    """Write the report of a finished run into its folder.

    Args:
        folder: the run's folder.

    Returns:
        The page.
    """
    environment = Environment(
        loader=PackageLoader("sslkit.report"), autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("page.html.jinja").render(_facts(folder))
    path = folder / "report.html"
    write_text(path, page)
    return path


def _facts(folder: Path) -> dict[str, Any]:
    saved = read_json(folder / "results.json")
    results = Results(saved["recipe"], saved["paper"], {}, saved["stages"])
    return {
        "name": saved["recipe"],
        "rows": results.rows(),
        "with_paper": bool(saved["paper"]),
        "margins": saved["margins"],
        "stages": [read_json(folder / stage / ARTIFACT) for stage in saved["stages"]],
        "environment": read_json(folder / "environment.json"),
        "recipe": (folder / "recipe.toml").read_text(encoding="utf-8"),
    }
