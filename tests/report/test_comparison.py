import json
import re
from pathlib import Path

import pytest

from sslkit import ArtifactError
from sslkit.report.comparison import Compared, Comparison, compare_runs
from tests.report.run_folders import make_run

FIRST = {"probe": {"conv2.top1": 90.0, "conv2.alpha_req": 1.5}, "pretrain": {"pretext_loss": 0.5}}
SECOND = {"probe": {"conv2.top1": 92.504, "conv2.alpha_req": 1.0}, "pretrain": {"pretext_loss": 0.25}, "knn": {"conv2.top1": 70.0}}


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    folders = [make_run(tmp_path / name, stages, name=name) for name, stages in (("a", FIRST), ("b", SECOND))]
    return compare_runs(folders)


def test_metrics_stand_beside_each_other(comparison: Comparison):
    assert comparison.labels == ("a", "b")
    assert comparison.rows == (
        Compared("probe.conv2.top1", (90.0, 92.504)),
        Compared("probe.conv2.alpha_req", (1.5, 1.0)),
        Compared("pretrain.pretext_loss", (0.5, 0.25)),
        Compared("knn.conv2.top1", (None, 70.0)),
    )
    assert [row.best for row in comparison.rows] == [[1], [], [1], []]
    assert comparison.rows[0].differences == (None, pytest.approx(2.504))
    assert comparison.rows[3].differences == (None, None)


def test_the_table(comparison: Comparison):
    assert comparison.table().markdown().splitlines() == [
        "| metric | a | b |",
        "| --- | ---: | ---: |",
        "| probe.conv2.top1 | 90.00 | **92.50** (+2.50) |",
        "| probe.conv2.alpha_req | 1.50 | 1.00 (-0.50) |",
        "| pretrain.pretext_loss | 0.50 | **0.25** (-0.25) |",
        "| knn.conv2.top1 | - | 70.00 |",
    ]
    assert comparison.table().note.startswith("Differences are to a.")


def test_json(comparison: Comparison, tmp_path: Path):
    saved = json.loads(json.dumps(comparison.as_json(), allow_nan=False))
    assert saved["runs"][1] == {"label": "b", "recipe": "b", "folder": str(tmp_path / "b"), "finished": True, "pending": []}
    assert saved["metrics"]["pretrain.pretext_loss"] == {"values": [0.5, 0.25], "differences": [None, -0.25], "best": [1]}
    assert saved["metrics"]["knn.conv2.top1"] == {"values": [None, 70.0], "differences": [None, None], "best": []}


@pytest.mark.parametrize(("values", "best"), [((1.0, 2.0, 2.0), [1, 2]), ((2.0, 2.0), []), ((None, 1.0), [])])
def test_the_best(values: tuple[float | None, ...], best: list[int], tmp_path: Path):
    stages = [{"probe": {} if value is None else {"conv2.top1": value}} for value in values]
    found = compare_runs([make_run(tmp_path / str(i), own) for i, own in enumerate(stages)])
    assert found.rows[0].best == best
    json.dumps(found.as_json(), allow_nan=False)


def test_runs_of_one_recipe_are_distinguished_by_their_folders(tmp_path: Path):
    names = ("same", "same", "other")
    folders = [make_run(tmp_path / str(i), FIRST, name=name) for i, name in enumerate(names)]
    assert compare_runs(folders).labels == (str(tmp_path / "0"), str(tmp_path / "1"), "other")


def test_unfinished_runs_are_shown_and_said_to_be(tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "recipe.toml").write_text('name = "new"')
    found = compare_runs([make_run(tmp_path / "a", FIRST, pending=["knn", "finetune"]), tmp_path / "new"])
    assert list(found.unfinished()) == ["mine is not finished; still to run: knn, finetune", "new is not finished; still to run: unknown"]
    assert found.rows[0].values == (90.0, None)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["a"], "there is nothing to compare with; found ['a']; allowed: two runs or more; name another run's folder"),
        (["a", "b/../a"], "a run is given twice; found ['a', 'b/../a']; name each run's folder once"),
        (["a", "nowhere"], "nowhere: no such folder; name a folder that sslkit run wrote"),
    ],
)
def test_what_cannot_be_compared_is_refused(folders: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_run(tmp_path / "a", FIRST)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=rf"^{re.escape(message)}"):
        compare_runs(folders)


def test_what_all_runs_have_comes_first(tmp_path: Path):
    first = make_run(tmp_path / "a", {"only": {"conv1.top1": 1.0}, "both": {"conv1.top1": 2.0}})
    second = make_run(tmp_path / "b", {"both": {"conv1.top1": 3.0}})
    assert [row.metric for row in compare_runs([first, second]).rows] == ["both.conv1.top1", "only.conv1.top1"]
