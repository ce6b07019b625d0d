"""The script that knows every figure of the paper: its cells exist, it repeats nothing, it goes on, and the document says what is so."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reproduce
from reproduction import runner
from reproduction.claims import judge
from reproduction.document import render
from reproduction.pack import export_runs, import_runs
from reproduction.records import Record, collect, load_records, save_records
from reproduction.runner import Reproduction, stages_of, with_upstream
from reproduction.tables import Cell, Table, by_interest, paper_tables
from sslkit import StageStart, load_catalog, load_recipe
from sslkit.recipe.recipe import Recipe, parse_recipe
from tests.observers import Recorder
from tests.recipes import SMALL, changed

ROOT = Path(__file__).parents[2]
SUFFIXES = ("", "_cpu")

FEW = """
[stages.few]
weights = "random"
evaluator = { name = "semi_supervised", labels_per_class = [1], selection = "random", num_subsets = 2, layers = ["conv1"], head = "linear", epochs = 1, batch_size = 10, images_per_epoch = 20 }
"""


def tiny(name: str, *overrides: str) -> Recipe:
    text = changed(f"name={name}", "precision=float32", "stages.pretrain.epochs=2", *overrides, text=SMALL + FEW)
    return parse_recipe(tomllib.loads(text), load_catalog())


def record(metric: str, value: float, recipe: str = "rotnet_depths_cpu", **options: Any) -> Record:
    defaults: dict[str, Any] = {
        "seed": 0,
        "data": "CIFAR-10 (JPEG)",
        "hardware": "a CPU, 2 threads",
        "versions": {"torch": "2.9", "sslkit": "0.1"},
        "commit": "abc",
        "date": "2026-01-02",
        "command": f"sslkit run recipes/{recipe}.toml",
        "seconds": 1.5,
    }
    return Record(recipe=recipe, metric=metric, value=value, **{**defaults, **options})


# ------------------------------------------------------------------------------------------------------------------ the cells


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_cell_is_a_metric_of_a_stage_that_its_recipe_has(suffix: str):
    recipes = reproduce.load_recipes(suffix, [])
    tables = reproduce.tables_of(recipes, cpu=bool(suffix))
    for name, recipe in recipes.items():
        metrics = [cell.metric for table in tables for cell in table.cells() if cell.recipe == name]
        assert metrics
        measured = {stage.key for stage in stages_of(recipe, metrics)}
        with_weights = {needed.key for key in measured for needed in with_upstream(recipe, recipe.stage(key))}
        assert with_weights == {stage.key for stage in recipe.stages}, "a stage that no table shows"


def test_every_figure_of_the_paper_is_in_a_table():
    tables = reproduce.tables_of(reproduce.load_recipes("", []), cpu=False)
    cells = {cell for table in tables for cell in table.cells()}
    shown_by_depth = {f"mlp_probe.conv{layer}.top1" for layer in (1, 3, 4)}  # of the comparison's network, which is that of 4 blocks
    for name, recipe in reproduce.load_recipes("", []).items():
        assert {metric for metric in recipe.paper if Cell(name, metric) not in cells} <= shown_by_depth
    assert len({cell for table in tables[:3] for cell in table.cells()}) == 6 + 12 + 4


def test_the_papers_figures_are_those_of_the_paper():
    """Tables 1 to 3 of arXiv:1803.07728, typed here once more."""
    depths = {3: (85.45, 88.26, 62.09), 4: (85.07, 89.06, 86.21, 61.73), 5: (85.04, 89.76, 86.82, 74.50, 50.37)}
    assert dict(load_recipe(ROOT / "recipes" / "rotnet_depths.toml").paper) == {
        f"blocks{blocks}/mlp_probe.conv{layer}.top1": top1 for blocks, row in depths.items() for layer, top1 in enumerate(row, start=1)
    }
    assert list(load_recipe(ROOT / "recipes" / "rotnet_rotations.toml").paper.values()) == [89.06, 88.51, 87.46, 85.52]
    comparison = load_recipe(ROOT / "recipes" / "rotnet_cifar10.toml").paper
    assert [comparison[f"{stage}.top1"] for stage in ("supervised.conv3", "random_conv_probe.conv2", "conv_probe.conv2")] == [
        92.8,
        72.5,
        91.16,
    ]
    assert [comparison[f"{stage}.conv2.top1"] for stage in ("mlp_probe", "mlp_finetune", "conv_finetune")] == [89.06, 91.73, 92.17]


def test_equal_pretraining_is_known_as_equal_across_recipes(tmp_path: Path):
    """The network with 4 blocks and 4 rotations belongs to five recipes: a machine with little time must train it once."""
    recipes = reproduce.load_recipes("", [])
    done = tmp_path / "rotnet_cifar10" / "pretrain"
    done.mkdir(parents=True)
    (done / "artifact.json").write_text('{"status": "finished"}')
    reproduction = Reproduction(recipes, tmp_path)
    same = {
        "rotnet_depths": "blocks4/pretrain",
        "rotnet_rotations": "rotations4/pretrain",
        "rotnet_few_labels": "pretrain",
        "rotnet_schedules": "fifth/pretrain",
    }
    for recipe in reproduction.recipes.values():
        for stage in recipe.stages:
            reproduction._reuse(recipe, stage)
    found = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("artifact.json")}
    assert found == {"rotnet_cifar10/pretrain", *(f"{name}/{key}" for name, key in same.items())}


# --------------------------------------------------------------------------------------------------------------------- running


def cells_of(recipe: Recipe) -> list[Cell]:
    layer = "conv2" if recipe.name == "one" else "conv1"
    return [Cell(recipe.name, f"probe.{layer}.top1"), Cell(recipe.name, "few.conv1.k1.top1")]


def test_what_one_recipe_has_trained_is_not_trained_again(tmp_path: Path):
    recipes = {recipe.name: recipe for recipe in (tiny("one"), tiny("two", "stages.probe.evaluator.layers=['conv1']"))}
    started = Recorder()
    reproduction = Reproduction(recipes, tmp_path, [started])
    finished = list(reproduction.run([cell for recipe in recipes.values() for cell in cells_of(recipe)], lambda: False))
    assert started.stages(StageStart) == ["pretrain", "probe", "few", "probe"]  # the few labels are the same in both
    assert finished == ["one", "one", "one", "two", "two"]  # pretraining counted in where it was done
    for name, recipe in recipes.items():
        records = collect(tmp_path / name, name, cells_of(recipe), data="digits", command="x")
        assert [found.cell for found in records] == cells_of(recipe)


def test_only_what_is_missing_is_measured(tmp_path: Path):
    started = Recorder()
    list(Reproduction({"one": tiny("one")}, tmp_path, [started]).run([Cell("one", "few.conv1.k1.top1")], lambda: False))
    assert started.stages(StageStart) == ["few"]


@pytest.mark.parametrize("through_archive", [False, True])
def test_out_of_time_it_stops_and_goes_on_later_with_the_same_figures(through_archive: bool, tmp_path: Path):
    cells = cells_of(tiny("one"))
    whole = Reproduction({"one": tiny("one")}, tmp_path / "whole")
    assert len(list(whole.run(cells, lambda: False))) == 3

    def stop_after(questions: int) -> Callable[[], bool]:
        answers = iter(range(questions))
        return lambda: next(answers, None) is None

    parts = tmp_path / "parts"
    assert list(Reproduction({"one": tiny("one")}, parts).run(cells, stop_after(4))) == []
    if through_archive:
        assert export_runs(parts, tmp_path / "runs.tar.gz") > 0
        parts = tmp_path / "elsewhere"
        import_runs(tmp_path / "runs.tar.gz", parts)
    assert list(Reproduction({"one": tiny("one")}, parts).run(cells, lambda: False)) == ["one", "one", "one"]
    found, expected = (
        [(r.metric, r.value, r.spread) for r in collect(folder / "one", "one", cells, data="digits", command="x")]
        for folder in (parts, tmp_path / "whole")
    )
    assert found == expected
    assert len(found) == 2
    assert found[1][2] is not None  # two subsets have a spread


def test_finished_pretraining_is_reported_of_before_its_first_probe_begins(tmp_path: Path):
    """It takes longest: who hands results over after each stage must not lose it with a probe that is cut off."""
    reproduction = Reproduction({"one": tiny("one")}, tmp_path)
    stages = reproduction.run(cells_of(tiny("one"))[:1], (tmp_path / "one" / "pretrain" / "backbone.safetensors").exists)
    assert next(stages) == "one"
    assert json.loads((tmp_path / "one" / "pretrain" / "artifact.json").read_text())["status"] == "finished"
    assert list(stages) == []  # stopped in the probe
    assert not (tmp_path / "one" / "probe" / "heads.safetensors").exists()


class Failing:
    """Fails where a compiler might: in a stage that is compiled, or in any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stage: str, *, compiled_alone: bool) -> None:
        self.tried: list[bool] = []
        whole = runner.run_recipe

        def run_recipe(recipe: Recipe, **options: Any) -> Any:
            if recipe.stages[-1].key == stage:
                compiled = bool(recipe.stages[-1].runtime.compile)
                self.tried.append(compiled)
                if compiled or not compiled_alone:
                    raise RuntimeError("no such kernel")
            return whole(recipe, **options)

        monkeypatch.setattr(runner, "run_recipe", run_recipe)


@pytest.mark.parametrize("compiled_alone", [True, False])
def test_a_stage_that_fails_is_tried_uncompiled_and_the_others_go_on(compiled_alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failing = Failing(monkeypatch, "probe", compiled_alone=compiled_alone)
    reproduction = Reproduction({"one": tiny("one")}, tmp_path)
    problems: list[str] = []
    finished = list(
        reproduction.run(cells_of(tiny("one")), lambda: False, on_error=lambda stage, error: problems.append(f"{stage}: {error}"))
    )
    assert failing.tried == [True, False]
    assert problems == ["one, probe: no such kernel"] * (1 if compiled_alone else 2)
    assert finished == ["one"] * (3 if compiled_alone else 2)
    assert (tmp_path / "one" / "few" / "artifact.json").exists()


def test_a_stage_that_fails_is_raised_where_nobody_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Failing(monkeypatch, "probe", compiled_alone=True)
    with pytest.raises(RuntimeError, match="no such kernel"):
        list(Reproduction({"one": tiny("one")}, tmp_path).run(cells_of(tiny("one")), lambda: False))


def test_an_archive_holds_what_fits_pretraining_first_and_equal_stages_once(tmp_path: Path):
    runs = tmp_path / "runs"
    stages = {
        "a/finetune": ("evaluate", "f1"),
        "a/pretrain": ("pretrain", "p1"),
        "b/pretrain": ("pretrain", "p1"),  # taken over from a
        "b/wide": ("pretrain", "p2"),
    }
    for key, (kind, fingerprint) in stages.items():
        (runs / key).mkdir(parents=True)
        (runs / key / "artifact.json").write_text(json.dumps({"kind": kind, "status": "finished", "fingerprint": fingerprint}))
        (runs / key / "backbone.safetensors").write_bytes(b"x" * 40_000)
        (runs / key / "heads.safetensors").write_bytes(b"x" * 40_000)  # nothing starts from them
    (runs / "a" / "results.json").write_text("{}")

    def packed(max_bytes: int | None) -> set[str]:
        archive = tmp_path / "runs.tar"
        size = export_runs(runs, archive, max_bytes=max_bytes)
        assert max_bytes is None or size <= max_bytes
        import_runs(archive, tmp_path / str(max_bytes))
        return {path.relative_to(tmp_path / str(max_bytes)).as_posix() for path in (tmp_path / str(max_bytes)).rglob("*.*")}

    whole = {f"{key}/{name}" for key in ("a/finetune", "a/pretrain", "b/wide") for name in ("artifact.json", "backbone.safetensors")}
    assert packed(None) == whole | {"a/results.json"}
    assert packed(120_000) == {path for path in whole if "finetune" not in path} | {"a/results.json"}
    assert packed(70_000) == {"a/results.json", "a/pretrain/artifact.json", "a/pretrain/backbone.safetensors"}


def test_rotnets_own_probes_are_measured_before_all_else():
    cells = by_interest(reproduce.tables_of(reproduce.load_recipes("", []), cpu=False))
    assert [cell.metric for cell in cells[:4]] == [
        "conv_probe.conv2.top1",
        "mlp_probe.conv2.top1",
        "random_conv_probe.conv2.top1",
        "conv_finetune.conv2.top1",
    ]
    assert {cell.recipe for cell in cells[:6]} == {"rotnet_cifar10"}
    assert len(set(cells)) == len(cells)


# --------------------------------------------------------------------------------------------------------------------- records


def test_a_run_becomes_records_with_all_that_belongs_beside_a_figure(tmp_path: Path):
    recipe = tiny("one", "stages.pretrain.snapshot_epochs=[0, 1]")
    cells = [Cell("one", "probe.conv2.top1"), Cell("one", "pretrain.top1@1"), Cell("one", "pretrain.top1@7"), Cell("one", "nothing.top1")]
    list(Reproduction({"one": recipe}, tmp_path).run(cells[:1], lambda: False))
    records = collect(tmp_path / "one", "one_cpu", cells, data="digits", command="sslkit run x")
    assert [r.metric for r in records] == ["probe.conv2.top1", "pretrain.top1@1"]
    artifact = json.loads((tmp_path / "one" / "probe" / "artifact.json").read_text())
    (environment,) = artifact["environments"]
    assert records[0] == Record(
        recipe="one_cpu",
        metric="probe.conv2.top1",
        value=round(artifact["metrics"]["conv2.top1"], 4),
        seed=0,
        data="digits",
        hardware=artifact["device"],
        versions={name: environment["versions"][name] for name in ("torch", "sslkit")},
        commit=environment["commit"],
        date=artifact["finished"][:10],
        command="sslkit run x",
        seconds=artifact["seconds"],
    )
    save_records(tmp_path / "records", records)
    assert list(load_records(tmp_path / "records").values()) == records


def test_a_folder_without_a_run_has_no_records(tmp_path: Path):
    assert collect(tmp_path / "nowhere", "one", cells_of(tiny("one")), data="digits", command="x") == []


# -------------------------------------------------------------------------------------------------------------------- document

TABLE = Table(
    "Depths",
    "model",
    ("ConvB1", "ConvB2"),
    {
        "3 blocks": {"ConvB1": Cell("rotnet_depths", "a.top1"), "ConvB2": Cell("rotnet_depths", "b.top1")},
        "none": {"ConvB2": Cell("rotnet_depths", "c.top1")},
    },
)


def test_the_document_shows_ours_the_papers_and_what_is_missing():
    records = {r.cell: r for r in (record("a.top1", 80.126, spread=1.5), record("b.top1", 70.0, recipe="rotnet_depths"))}
    text = render(records, [TABLE], [TABLE], {Cell("rotnet_depths", "b.top1"): 88.26})
    cpu, full = text.split("## At the paper's size")
    assert "| 3 blocks | 80.13 ± 1.50 | – |" in cpu
    assert "| 3 blocks | – | 70.00 (88.26) |" in full
    assert "| none |  | – |" in cpu
    assert "1 of 3 results measured." in cpu
    assert "- CIFAR-10 (JPEG); a CPU, 2 threads; torch 2.9; 2026-01-02, commit abc; seed 0" in cpu
    assert "- `sslkit run recipes/rotnet_depths_cpu.toml`" in cpu


def depths(conv1: float, conv2: float, conv3: float) -> dict[Cell, Record]:
    values = {"conv1": conv1, "conv2": conv2, "conv3": conv3}
    return {r.cell: r for r in (record(f"blocks3/mlp_probe.{layer}.top1", value) for layer, value in values.items())}


@pytest.mark.parametrize(("values", "holds"), [((60.0, 61.0, 50.0), True), ((62.0, 61.0, 50.0), False)])
def test_a_claim_is_judged_by_the_figures(values: tuple[float, float, float], holds: bool):
    claim = judge(depths(*values), "_cpu")[0]
    assert claim.holds is holds
    assert claim.figures == ", ".join(f"conv{i} {value:.2f}" for i, value in enumerate(values, start=1))
    assert all(other.holds is None for other in judge(depths(*values), "_cpu")[1:])
    assert judge(depths(*values), "")[0].holds is None


def test_every_claim_can_hold_and_can_fail():
    recipes = reproduce.load_recipes("_cpu", [])
    cells = [cell for table in reproduce.tables_of(recipes, cpu=True) for cell in table.cells()]
    good = {"conv2": 70.0, "conv_finetune": 80.0, "mlp_finetune": 80.0, "random": 40.0, "supervised": 50.0, "rotations4": 75.0}

    def value(metric: str) -> float:
        return next((top1 for word, top1 in reversed(good.items()) if word in metric), 60.0)

    kind = {r.cell: r for r in (record(cell.metric, value(cell.metric), recipe=f"{cell.recipe}_cpu") for cell in cells)}
    assert [claim.text for claim in judge(kind, "_cpu") if claim.holds is not True] == []
    flat = {r.cell: r for r in (record(cell.metric, 50.0, recipe=f"{cell.recipe}_cpu") for cell in cells)}
    holding = [claim.text for claim in judge(flat, "_cpu") if claim.holds is not False]
    assert holding == []


@pytest.mark.docs
def test_the_committed_document_is_that_of_the_committed_records():
    records = load_records(ROOT / "docs" / "results")
    assert reproduce.document(records) == (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_machine_paths_stay_out_of_commands():
    overrides = ['data={ name = "image_folder", root = "/home/me/x", image_size = 32 }']
    assert reproduce.command("a_cpu", overrides) == (
        'sslkit run recipes/a_cpu.toml \'data={ name = "image_folder", root = "<folder>", image_size = 32 }\''
    )


def test_a_wrong_override_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--list", "data.nme=x"])
    assert reproduce.main() == 2
    assert capsys.readouterr().err == "error: data.nme: unknown option; allowed: root, download, mean, std\n"


def test_the_list_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.setattr("sys.argv", ["reproduce.py", "--list", "--results", str(tmp_path), "--only", "rotnet_rotations"])
    assert reproduce.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        f"rotnet_rotations {key}/mlp_probe.conv2.top1" for key in ("rotations4", "rotations8", "rotations2_0_180", "rotations2_90_270")
    ]
    assert len({cell for table in paper_tables(()) for cell in table.cells()}) == 42
