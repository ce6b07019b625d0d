import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sslkit.catalog.catalog import PluginInfo
from sslkit.cli import console as module
from sslkit.cli.console import (
    ProgressDisplay,
    make_console,
    print_comparison,
    print_plugins,
    print_recipes,
    print_results,
    progress_on_stderr,
)
from sslkit.contract.events import (
    CheckpointSaved,
    Event,
    FitStart,
    HeldoutEnd,
    Notice,
    StageEnd,
    StageSkipped,
    StageStart,
    StepEnd,
)
from sslkit.contract.progress import Count, counting
from sslkit.recipe.bundled import BundledRecipe
from sslkit.report.comparison import Comparison, compare_runs
from sslkit.run.results import Results
from tests.report.run_folders import make_run


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some machines make every output a terminal."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)


def plain(width: int = 120) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False)


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, highlight=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(console: Console) -> list[str]:
    return text_of(console).splitlines()


def shown(*events: Event) -> list[str]:
    """The lines of plain output that events leave."""
    console = plain()
    display = ProgressDisplay(console)
    for event in events:
        display.observe(event)
    return lines_of(console)


def printed(show: Callable[[Console, Any], None], value: object, console: Console | None = None) -> Console:
    console = console or plain()
    show(console, value)
    return console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def step(number: int, **metrics: float) -> StepEnd:
    return StepEnd(stage="pretrain", part="", step=number, epoch=number / 4, num_images=64, metrics=metrics)


def fit_start(step: int = 0, part: str = "") -> FitStart:
    return FitStart(stage="pretrain", part=part, step=step, num_steps=1200, num_epochs=300)


START = StageStart(stage="pretrain", kind="pretrain", folder=Path("runs/pretrain"))
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
END = StageEnd(stage="pretrain", metrics={"pretext_top1": 87.654}, seconds=75.2)
RUN: list[Event] = [
    START,
    fit_start(),
    step(1),
    step(2, loss=1.25, top1=30.0, lr=0.1, images_per_second=1000.0),
    Notice(stage="pretrain", message="3 files [skipped]"),
    CheckpointSaved(stage="pretrain", part="", step=2, path=Path("checkpoint.safetensors")),
    HeldoutEnd(stage="pretrain", part="", step=2, epoch=0.5, metrics={"loss": 1.3, "top1": 29.5}),
    END,
]

# ---------------------------------------------------------------------------------------------------------------- counting


def test_elsewhere_a_count_is_a_line_every_ten_seconds(clock: list[float]):
    console = plain()
    display = ProgressDisplay(console)
    for done in range(0, 250, 10):
        display.count(Count("scanning [images] in a\nb", done, None))
        clock[0] += 1
    display.count(Count("decoding", 5, 90))
    clock[0] += 10
    display.count(Count("decoding", 60, 90))
    display.count(Count("decoding", 90, 90, finished=True))
    assert lines_of(console) == [
        "scanning [images] in a\\nb: 100",
        "scanning [images] in a\\nb: 200",
        "decoding: 60 of 90",
    ]


def test_on_a_terminal_a_count_is_a_bar_that_goes_away():
    console = terminal()
    display = ProgressDisplay(console)
    display.count(Count("scanning [images] in \x1b[31mx", 12345, None))
    assert "scanning [images] in \\x1b[31mx" in text_of(console)
    assert "12345" in text_of(console)
    assert SHOW_CURSOR not in text_of(console)
    display.count(Count("scanning [images] in \x1b[31mx", 20000, None, finished=True))
    assert SHOW_CURSOR in text_of(console)
    display.count(Count("decoding", 7, 90))
    assert "7/90" in text_of(console)
    display.close()
    assert text_of(console).count(SHOW_CURSOR) == text_of(console).count(HIDE_CURSOR) == 2


def test_the_bar_of_a_training_stays_alone():
    console = terminal()
    display = ProgressDisplay(console)
    display.observe(fit_start())
    display.count(Count("decoding", 7, 90))
    assert "decoding" not in text_of(console)
    display.close()


def test_progress_is_shown_while_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clock: list[float]):
    monkeypatch.setattr("sslkit.contract.progress._SECONDS", 0.0)
    with progress_on_stderr() as observers, counting("decoding", 3) as count:
        count(1)
        clock[0] += 10
        count(1)
    assert len(observers) == 1
    with progress_on_stderr(quiet=True) as observers, counting("unseen") as count:
        count(1)
        clock[0] += 10
        count(1)
    assert [observer.shows_notices for observer in observers] == [True]
    assert capsys.readouterr().err == "decoding: 2 of 3\n"


def test_a_notice_with_a_strange_file_name_is_one_printable_line():
    assert shown(Notice(stage="pretrain", message="the first is a\nb\x1b[2J\udce9.jpg")) == [
        "  note: the first is a\\nb\\x1b[2J\\udce9.jpg"
    ]


# --------------------------------------------------------------------------------------------------------------- progress


def test_plain_output_is_a_line_for_everything_that_happens():
    assert shown(*RUN) == [
        "pretrain: pretraining",
        "  note: 3 files [skipped]",
        "  held out, epoch 0.5: loss 1.30  top1 29.50",
        "pretrain: done in 1 min 15 s: pretext_top1 87.65",
    ]


def test_plain_progress_comes_every_ten_seconds(clock):
    console = plain()
    display = ProgressDisplay(console)
    display.observe(fit_start(part="k20"))
    clock[0] += 5
    display.observe(step(1))
    assert lines_of(console) == []
    clock[0] += 5
    display.observe(step(2, loss=1.25, top1=30.0, lr=0.1, images_per_second=1000.0))
    display.observe(step(3))
    assert lines_of(console) == [
        "  pretrain k20 step 2/1,200, epoch 0.5/300, 13 images/s, 1 h 39 min left  loss 1.25  top1 30.00"
    ]  # 128 images in 10 s; 1,198 steps of 5 s are 5,990 s
    clock[0] += 10
    display.observe(step(4))
    assert lines_of(console)[-1].startswith("  pretrain k20 step 4/1,200, ")
    assert lines_of(console)[-1].endswith("  loss 1.25  top1 30.00")  # the latest figures stay


def test_a_resumed_fit_says_where_and_counts_its_own_steps(clock):
    console = plain()
    display = ProgressDisplay(console)
    display.observe(fit_start(step=600))
    clock[0] += 10
    display.observe(step(601))
    assert lines_of(console) == [
        "  resumed at step 600 of 1,200",
        "  pretrain step 601/1,200, epoch 150.2/300, 6 images/s, 1 h 39 min left  ",
    ]  # 599 steps of 10 s are 5,990 s


def test_a_skipped_stage_shows_what_it_found():
    skipped = StageSkipped(stage="probe", metrics={"conv2.top1": 91.2}), StageSkipped(stage="nothing", metrics={})
    assert shown(*skipped) == ["probe: finished earlier: conv2.top1 91.20", "nothing: finished earlier"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (59.0, "59.0 s"), (60.0, "1 min 00 s"), (3599.9, "1 h 00 min"), (7384, "2 h 03 min")]
)
def test_durations(seconds, words):
    assert shown(StageEnd(stage="probe", metrics={}, seconds=seconds)) == [f"probe: done in {words}"]


def test_on_a_terminal_a_bar_shows_speed_and_figures(clock):
    console = terminal()
    display = ProgressDisplay(console)
    for event in RUN[:3]:
        display.observe(event)
    clock[0] += 2
    display.observe(RUN[3])
    display.close()
    assert "2/1200" in text_of(console)
    assert "64 images/s" in text_of(console)
    assert "loss 1.25  top1 30.00" in text_of(console)
    assert "lr 0.10" not in text_of(console)


def test_on_a_terminal_a_whole_run_ends_without_a_bar():
    console = terminal()
    display = ProgressDisplay(console)
    for event in [*RUN, START, fit_start(step=3), fit_start(part="k5"), *RUN]:
        display.observe(event)
    display.close()
    display.close()
    assert text_of(console).rindex(SHOW_CURSOR) > text_of(console).rindex(HIDE_CURSOR)
    assert "3 files [skipped]" in text_of(console)
    assert "resumed at step 3" in text_of(console)


# ----------------------------------------------------------------------------------------------------------------- tables


def results(**options: object) -> Results:
    stages = {"pretrain": {"pretext_loss": 0.5}, "conv_probe": {"conv1.top1": 80.0, "conv2.top1": 90.0}}
    return Results("mine", **{"stages": stages, **options})  # pyright: ignore[reportArgumentType]


def cells(line: str) -> list[str]:
    return [word for word in line.replace("│", " ").replace("┃", " ").split() if word.isprintable()]


def test_results_without_the_papers_figures():
    console = printed(print_results, results())
    rows = [cells(line) for line in lines_of(console)]
    assert rows[0] == ["mine"]
    assert ["stage", "metric", "ours"] in rows
    assert ["pretrain", "pretext_loss", "0.50"] in rows
    assert ["conv_probe", "conv1.top1", "80.00"] in rows
    assert ["conv2.top1", "90.00"] in rows  # the stage stands there once
    assert "paper" not in text_of(console)


def test_results_beside_the_papers_figures():
    console = printed(print_results, results(paper={"conv_probe.conv2.top1": 91.16, "conv_probe.conv9.top1": 50.0}))
    rows = [cells(line) for line in lines_of(console)]
    assert ["stage", "metric", "ours", "paper", "difference"] in rows
    assert ["conv2.top1", "90.00", "91.16", "-1.16"] in rows
    assert ["conv_probe", "conv1.top1", "80.00"] in rows
    assert lines_of(console)[-1] == "note: the paper's result conv_probe.conv9.top1 matches no metric of this run"


def test_margins_are_printed_as_the_recipe_names_them():
    margins = {"deep [ours] over [/shallow]": ("conv_probe.conv2.top1", "conv_probe.conv1.top1"), "lost": ("a.b", "conv_probe.conv1.top1")}
    console = printed(print_results, results(margins=margins))
    assert lines_of(console)[-1] == "deep [ours] over [/shallow]: +10.00  (conv_probe.conv2.top1 minus conv_probe.conv1.top1)"
    assert "lost" not in text_of(console)


def test_long_names_are_folded_and_figures_are_not():
    stages = {"a_stage_with_a_very_long_name_that_goes_on_and_on": {"a_layer_of_a_network_with_a_long_name.k5000.top1_std": 12.345}}
    key = "a_stage_with_a_very_long_name_that_goes_on_and_on.a_layer_of_a_network_with_a_long_name.k5000.top1_std"
    console = plain(width=80)
    print_results(console, results(stages=stages, paper={key: 10.0}))
    assert max(len(line) for line in lines_of(console)) <= 80
    row = next(cells(line) for line in lines_of(console) if "12.35" in line)
    assert row[-3:] == ["12.35", "10.00", "+2.35"]
    columns = zip(*(line.split("│")[1:3] for line in lines_of(console) if "│" in line), strict=True)
    assert [".".join("".join(part.strip() for part in column) for column in columns)] == [key]
    assert "…" not in text_of(console)


def test_metrics_with_brackets_are_shown_as_they_are():
    console = printed(print_results, results(stages={"probe": {"layer[0].top1": 50.0, "[/b].top1": 40.0}}))
    assert "layer[0].top1" in text_of(console)
    assert "[/b].top1" in text_of(console)
    assert shown(StageEnd(stage="probe", metrics={"[/b].top1": 40.0}, seconds=1)) == ["probe: done in 1.0 s: [/b].top1 40.00"]


def comparison(folder: Path, **second: dict[str, float]) -> Comparison:
    make_run(folder / "a", {"probe": {"conv2.top1": 90.0, "[/b].top1": 1.0}}, name="a[x]")
    return compare_runs([folder / "a", make_run(folder / "b", second, name="b", pending=["knn"])])


def test_runs_are_compared(tmp_path):
    console = printed(print_comparison, comparison(tmp_path, probe={"conv2.top1": 92.504, "conv3.top1": 50.0}))
    rows = [cells(line) for line in lines_of(console)]
    assert ["metric", "a[x]", "b"] in rows
    assert ["probe.conv2.top1", "90.00", "92.50", "(+2.50)"] in rows
    assert ["probe.[/b].top1", "1.00", "-"] in rows
    assert ["probe.conv3.top1", "-", "50.00"] in rows
    assert lines_of(console)[-1] == "note: b is not finished; still to run: knn"


def test_the_best_run_is_bold(tmp_path):
    console = printed(print_comparison, comparison(tmp_path, probe={"conv2.top1": 92.5}), terminal())
    assert "\x1b[1m92.50\x1b[0m (+2.50)" in text_of(console)
    assert "\x1b[1m90.00" not in text_of(console)


def test_nothing_to_compare_is_said(tmp_path):
    folders = [make_run(tmp_path / name, {}, name=name) for name in ("a", "b")]
    console = printed(print_comparison, compare_runs(folders))
    assert lines_of(console) == ["no results: none of these runs has measured anything yet"]


def test_plugins_with_brackets_in_their_errors():
    console = printed(print_plugins, [PluginInfo(name="x", distribution="sslkit-x", version="1.0", error="No module named 'a[b]'")])
    assert ["x", "sslkit-x", "1.0", "broken:", "No", "module", "named", "'a[b]'"] in [cells(line) for line in lines_of(console)]


def test_recipes_are_a_line_each():
    console = plain()
    recipes = [BundledRecipe("a", Path("a.toml"), "First [best]"), BundledRecipe("longer", Path("b.toml"), "Second")]
    print_recipes(console, recipes)
    assert [line.split() for line in lines_of(console)] == [["a", "First", "[best]"], ["longer", "Second"]]


def test_without_a_terminal_output_is_120_columns_wide(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    console = make_console(io.StringIO())
    assert (console.width, console.is_terminal) == (120, False)


def test_no_figure_is_said_in_words():
    console = printed(print_results, Results("mine"))
    assert lines_of(console) == ["no results: nothing was measured on held-out images"]
