"""What docs/reliability.md shows of the kills is what the report in docs/reliability holds."""

import json
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "reliability.md").read_text(encoding="utf-8")
REPORT = json.loads((DOCS / "reliability" / "kills.json").read_text(encoding="utf-8"))


def rows() -> list[list[str]]:
    """The cells of every line of a table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("|")]


def test_each_variant_has_its_line():
    for name, found in REPORT["variants"].items():
        kills = found["kills"]
        counts = (kills["a random time"], kills["a random write"], found["runs"], found["writes"], len(found["problems"]))
        assert [name, *map(str, counts)] in rows(), name


def test_the_moments_add_up():
    moments: Counter[str] = Counter()
    for found in REPORT["variants"].values():
        moments.update(found["moments"])
    for moment, count in moments.items():
        assert [moment, str(count)] in rows(), moment
    assert moments.total() == sum(sum(found["kills"].values()) for found in REPORT["variants"].values())
    assert f"{moments.total()} kills, 0 differences" in TEXT


def test_nothing_was_lost_in_a_hundred_kills():
    assert not [problem for found in REPORT["variants"].values() for problem in found["problems"]]
    assert sum(sum(found["kills"].values()) for found in REPORT["variants"].values()) >= 100


def test_the_machine_and_the_date_stand_beside_the_figures():
    environment = REPORT["environment"]
    assert environment["cpu"] in TEXT
    assert environment["versions"]["torch"] in TEXT
    assert environment["date"][:10] in TEXT
