"""Tables that a sweep or a row of snapshots reads better in: a row a variant, a column a metric or an epoch."""

from collections.abc import Iterator, Sequence

from sslkit.recipe.stages import parse_key
from sslkit.report.run_folder import RunFolder
from sslkit.report.tables.table import Cell, Column, Table
from sslkit.run.results import Row


def pivot_tables(run: RunFolder) -> Iterator[Table]:
    """One for each stage that several variants have, or that measures several snapshots."""
    rows = run.results.rows()
    for name in dict.fromkeys(parse_key(row.stage).name for row in rows):
        own = [row for row in rows if parse_key(row.stage).name == name]
        if len({parse_key(row.stage).epoch for row in own}) > 1:
            yield _by_epoch(name, own)
        elif len({parse_key(row.stage).variant for row in own}) > 1:
            yield _by_variant(name, own)


def _by_variant(name: str, rows: Sequence[Row]) -> Table:
    variants = dict.fromkeys(parse_key(row.stage).variant for row in rows)
    metrics = dict.fromkeys(row.metric for row in rows)
    by_place = {(parse_key(row.stage).variant, row.metric): row for row in rows}
    with_paper = any(row.paper is not None for row in rows)
    lines = []
    for variant in variants:
        own = [by_place.get((variant, metric)) for metric in metrics]
        lines.append((Cell(variant), *([Cell("ours")] if with_paper else []), *(Cell(row.value if row else None) for row in own)))
        if any(row is not None and row.paper is not None for row in own):
            lines.append((Cell(variant), Cell("paper"), *(Cell(row.paper if row else None) for row in own)))
    return Table(
        f"{name}_by_variant",
        f"{name}, by variant",
        (Column("variant"), *([Column("figures")] if with_paper else []), *(Column(metric, "figure") for metric in metrics)),
        tuple(lines),
    )


def _by_epoch(name: str, rows: Sequence[Row]) -> Table:
    epochs = sorted({parse_key(row.stage).epoch or 0 for row in rows})
    lines = dict.fromkeys((parse_key(row.stage).variant, row.metric) for row in rows)
    by_place = {(parse_key(row.stage).variant, row.metric, parse_key(row.stage).epoch): row.value for row in rows}
    swept = any(variant for variant, _ in lines)
    return Table(
        f"{name}_by_epoch",
        f"{name}, by epoch of pretraining",
        (*([Column("variant")] if swept else []), Column("metric", "code"), *(Column(str(epoch), "figure") for epoch in epochs)),
        tuple(
            (
                *([Cell(variant)] if swept else []),
                Cell(metric),
                *(Cell(by_place.get((variant, metric, epoch))) for epoch in epochs),
            )
            for variant, metric in lines
        ),
    )
