from pathlib import Path

from sslkit.report.pictures.best_layer import best_layer, layer_in
from tests.contract.miniatures.backbones import TinyConv
from tests.report.networks import IMAGE
from tests.report.stages import finish, recipe_of

RECIPE = recipe_of()
LAYERS = ("conv1", "conv2", "conv3")


def test_the_layer_where_a_frozen_network_is_most_accurate(tmp_path: Path):
    finish(tmp_path, "probe", {"conv1.top1": 50.0, "conv2.top1": 60.0, "conv2.k20.top1": 99.0, "conv9.top1": 98.0})
    finish(tmp_path, "random_probe", {"conv3.top1": 97.0})  # of an untrained network
    finish(tmp_path, "finetune", {"conv3.top1": 96.0})  # not frozen
    assert best_layer(tmp_path, RECIPE, LAYERS) == "conv2"
    finish(tmp_path, "snapshots/epoch=1", {"conv3.top1": 61.0})
    assert best_layer(tmp_path, RECIPE, LAYERS) == "conv3"


def test_without_a_measurement_there_is_no_best_layer(tmp_path: Path):
    finish(tmp_path, "probe", {"conv1.top1": 50.0}, status="running")
    assert best_layer(tmp_path, RECIPE, LAYERS) is None


def test_the_middle_layer_stands_in():
    backbone = TinyConv(IMAGE)
    assert [layer_in(backbone, best) for best in ("stem", "conv2", None)] == ["stem", "body", "body"]
