"""What docs/reliability.md shows of the kills is what the report in docs/reliability holds."""

import json
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "reliability.md").read_text(encoding="utf-8")
REPORTS = [json.loads((DOCS / "reliability" / name).read_text(encoding="utf-8")) for name in ("kills.json", "kills_foreign.json")]
VARIANTS = {name: found for report in REPORTS for name, found in report["variants"].items()}


def rows() -> list[list[str]]:
    """The cells of every line of a table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]


def test_each_variant_has_its_line():
    for name, found in VARIANTS.items():
        kills = found["kills"]
        counts = (kills["a random time"], kills["a random write"], found["runs"], found["writes"], len(found["problems"]))
        assert [name, *map(str, counts)] in rows(), name


def test_the_moments_add_up():
    moments: Counter[str] = Counter()
    for found in VARIANTS.values():
        moments.update(found["moments"])
    for moment, count in moments.items():
        assert [moment, str(count)] in rows(), moment
    assert moments.total() == sum(sum(found["kills"].values()) for found in VARIANTS.values())
    assert (
        f"{moments.total()} kills, {sum(VARIANTS['foreign']['kills'].values())} of them in a run of foreign plugins, 0 differences" in TEXT
    )


def test_nothing_was_lost_in_a_hundred_kills():
    assert not [problem for found in VARIANTS.values() for problem in found["problems"]]
    assert sum(sum(found["kills"].values()) for found in VARIANTS.values()) >= 100


def test_the_machine_and_the_date_stand_beside_the_figures():
    for environment in (report["environment"] for report in REPORTS):
        assert environment["cpu"].removesuffix("s") in TEXT
        assert environment["versions"]["torch"] in TEXT
        assert environment["date"][:10] in TEXT
