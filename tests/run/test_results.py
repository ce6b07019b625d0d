import json

import pytest

from sslkit.run.results import Results, Row


def results() -> Results:
    return Results(
        "rotnet_cifar10",
        paper={"probe.conv2.top1": 91.16, "probe.conv9.top1": 50.0, "finetune.conv4.top1": 92.0},
        margins={
            "trained over random": ("probe.conv2.top1", "random_probe.conv2.top1"),
            "not yet": ("probe.conv2.top1", "supervised.conv3.top1"),
        },
        stages={
            "pretrain": {"pretext_loss": 0.25, "pretext_top1": 93.5},
            "probe": {"conv2.top1": 90.5, "conv1.top1": 84.0},
            "random_probe": {"conv2.top1": 72.5},
        },
    )


def test_every_metric_is_a_row_in_the_order_it_was_measured():
    assert results().rows() == [
        Row("pretrain", "pretext_loss", 0.25, None),
        Row("pretrain", "pretext_top1", 93.5, None),
        Row("probe", "conv2.top1", 90.5, 91.16),
        Row("probe", "conv1.top1", 84.0, None),
        Row("random_probe", "conv2.top1", 72.5, None),
    ]
    assert Results("empty").rows() == []


def test_the_difference_is_ours_minus_the_papers():
    found = [row.difference for row in results().rows()]
    assert found == [None, None, pytest.approx(-0.66), None, None]


def test_figures_of_the_paper_without_one_of_ours_are_reported():
    assert results().missing() == ["probe.conv9.top1", "finetune.conv4.top1"]
    assert Results("empty").missing() == []


def test_margins_are_shown_once_both_metrics_are_there():
    (margin,) = results().differences()
    assert margin == ("trained over random", "probe.conv2.top1", "random_probe.conv2.top1", 18.0)
    complete = results()
    complete.stages["supervised"] = {"conv3.top1": 92.5}
    assert [(margin.label, margin.difference) for margin in complete.differences()] == [("trained over random", 18.0), ("not yet", -2.0)]


def test_the_content_of_results_json():
    saved = json.loads(json.dumps(results().as_json()))
    assert saved == {
        "recipe": "rotnet_cifar10",
        "stages": results().stages,
        "paper": results().paper,
        "margins": {"trained over random": 18.0},
        "pending": [],
    }
    assert list(saved["stages"]) == ["pretrain", "probe", "random_probe"]


def test_what_is_still_to_run_is_in_results_json():
    assert Results("mine", pending=["probe"]).as_json()["pending"] == ["probe"]


def test_results_do_not_share_their_tables():
    one, two = Results("one"), Results("two")
    one.stages["probe"] = {"conv2.top1": 1.0}
    assert two.stages == {}
