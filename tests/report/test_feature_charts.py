from functools import partial

import pytest

from sslkit.report.feature_charts import alarms_note, draw_features
from sslkit.report.page import make_report, render_markdown
from sslkit.report.pictures.all import Pictures
from sslkit.report.run_charts import draw_curves
from tests.report.drawn import legend_of, words_of
from tests.report.run_folders import MakeRun, train_line

features_line = partial(train_line, split="features")

LOG = [
    features_line(0.0, **{"quality.rankme": 3.0, "quality.alpha_req": 2.5, "quality.knn.top1": 60.0}),
    features_line(0.0, **{"collapse.features.std": 0.2, "collapse.features.cosine": 0.9, "collapse.features.rankme": 3.0}),
    train_line(0.5, loss=2.0),
    features_line(
        0.5, **{"collapse.features.std": 0.3, "collapse.features.cosine": 0.8, "collapse.features.rankme": 4.0, "collapse.p.q.entropy": 0.7}
    ),
    features_line(1.0, **{"quality.rankme": 5.0, "quality.alpha_req": 1.5, "quality.knn.top1": 80.0}),
]
PRETRAIN = {"pretrain": {"pretext_top1": 90.0}}


def panels(picture) -> dict[str, dict[str, list[tuple[float, float]]]]:
    return {
        axes.get_ylabel(): {
            str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        }
        for axes in picture.figure.axes
    }


def test_quality_without_labels_and_nearest_neighbours_share_a_chart(run_of: MakeRun):
    quality, _ = draw_features(run_of(PRETRAIN, logs={"pretrain": LOG}))
    assert panels(quality) == {
        "kNN top-1 (%)": {"pretrain": [(0.0, 60.0), (1.0, 80.0)]},
        "RankMe": {"pretrain": [(0.0, 3.0), (1.0, 5.0)]},
        "alpha-ReQ": {"pretrain": [(0.0, 2.5), (1.0, 1.5)]},
    }
    assert legend_of(quality) == ["pretrain"]
    assert quality.title == "Quality of the features during pretraining"
    assert [axes.get_xlabel() for axes in quality.figure.axes] == ["", "", "epoch"]


def test_the_signs_of_collapse_share_another(run_of: MakeRun):
    _, collapse = draw_features(run_of(PRETRAIN, logs={"pretrain": LOG}))
    assert panels(collapse) == {
        "std": {"pretrain, features": [(0.0, 0.2), (0.5, 0.3)]},
        "cosine": {"pretrain, features": [(0.0, 0.9), (0.5, 0.8)]},
        "RankMe": {"pretrain, features": [(0.0, 3.0), (0.5, 4.0)]},
        "entropy": {"pretrain, p.q": [(0.5, 0.7)]},
    }
    assert legend_of(collapse) == ["pretrain, features", "pretrain, p.q"]
    assert "Chart of std against epoch. pretrain, features: 0.2 at 0, 0.3 at 0.5." in collapse.alt


def test_runs_of_earlier_versions_have_neither(run_of: MakeRun):
    assert list(draw_features(run_of(PRETRAIN, logs={"pretrain": [train_line(0.5, loss=2.0)]}))) == []
    assert list(draw_features(run_of(PRETRAIN))) == []


def test_they_are_no_training_curves(run_of: MakeRun):
    (loss,) = draw_curves(run_of(PRETRAIN, logs={"pretrain": LOG}))
    assert loss.title == "Loss during pretraining"


def test_variants_are_lines_of_one_chart(run_of: MakeRun):
    stages = {f"blocks{number}/pretrain": {"pretext_top1": 90.0} for number in (3, 4)}
    quality, _ = draw_features(run_of(stages, logs=dict.fromkeys(stages, LOG)))
    assert legend_of(quality) == ["blocks3", "blocks4"]
    assert "blocks3" not in words_of(quality.figure)


@pytest.mark.parametrize("alarms", [[], ["the representation has collapsed: features.std is 0.01 after step 20, and was 0.4"]])
def test_an_alarm_stands_in_the_report(alarms: list[str], run_of: MakeRun):
    run = run_of(PRETRAIN, artifacts={"pretrain": {"alarms": alarms}})
    assert alarms_note(run) == " ".join(f"pretrain: {alarm}." for alarm in alarms)
    text = render_markdown(make_report([run], [Pictures()]))
    assert ("the representation has collapsed" in text) == bool(alarms)
