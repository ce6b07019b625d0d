"""Model cards read back."""

import re
from pathlib import Path
from typing import NamedTuple

FACTS = {
    *("Task", "Backbone", "Parameters", "Input", "Layers", "Data", "Training", "Hardware", "Seconds", "Versions", "Commit", "Date"),
    *("File", "SHA-256 of the file", "SHA-256 of the trained state", "Half precision", "Licence"),
}
"""What every card must say."""


class Card(NamedTuple):
    front: dict[str, str | list[str]]
    facts: dict[str, str]
    metrics: dict[tuple[str, str], float]
    recipe: str
    sections: dict[str, str]


def read_card(path: Path) -> Card:
    text = path.read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    sections = dict(re.findall(r"^## (.+?)\n\n(.*?)(?=^## |\Z)", body, flags=re.MULTILINE | re.DOTALL))
    rows = _rows(sections["Metrics"])
    return Card(
        front=_front(front),
        facts={name: value.replace("`", "") for name, value in _rows(sections["Facts"])},
        metrics={(stage, metric.strip("`")): float(value) for stage, _, metric, value, *_ in rows[1:]},
        recipe=re.findall(r"^```toml\n(.*?)^```$", body, flags=re.MULTILINE | re.DOTALL)[0],
        sections=sections,
    )


def _rows(section: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ") and line.strip("| ")]
    return [[cell.strip() for cell in line] for line in lines]


def _front(text: str) -> dict[str, str | list[str]]:
    """The little YAML that a card has: words, and lists of words."""
    found: dict[str, str | list[str]] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(": ")
        if line.startswith("- "):
            entries = found[list(found)[-1]]
            assert isinstance(entries, list)
            entries.append(line.removeprefix("- ").strip('"'))
        else:
            found[key.rstrip(":")] = value if separator else []
    return found
