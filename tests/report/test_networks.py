from pathlib import Path

import pytest

from sslkit import ArtifactError, Backbone
from sslkit.data.cache import OpenedDataset
from sslkit.report.pictures.networks import Network, best_layer, choose, finished, load_networks, shortlist
from sslkit.run.artifacts import BACKBONE, save_module
from sslkit.run.networks import untrained
from sslkit.storage.identity import state_hash
from tests.report.inputs import network
from tests.report.run_folders import STAGES, finish, recipe_of

RECIPE = recipe_of()
DATA = OpenedDataset(RECIPE.data)


def built(seed: int) -> Backbone:
    return untrained(RECIPE.stages[0].backbone, DATA.image(), seed)


def leave(folder: Path, key: str, seed: int) -> str:
    """A finished stage with a network of its own; returns what the network is known by."""
    finish(folder, key)
    (folder / key).mkdir(parents=True, exist_ok=True)
    save_module(folder / key / BACKBONE, built(seed))
    return state_hash(built(seed))


def test_networks_come_with_their_yardsticks(tmp_path: Path):
    expected = {key: leave(tmp_path, key, seed) for seed, key in enumerate(("pretrain", "finetune", "supervised"), start=1)}
    found = load_networks(tmp_path, RECIPE, DATA)
    names = ["pretrained (pretrain)", "fine-tuned (finetune)", "supervised (supervised)", "untrained (before pretrain)"]
    assert [network.name for network in found] == names
    assert [state_hash(network.backbone) for network in found] == [*expected.values(), state_hash(built(0))]
    assert not any(network.backbone.training for network in found)


def test_only_finished_stages_count(tmp_path: Path):
    assert load_networks(tmp_path, RECIPE, DATA) == []
    leave(tmp_path, "pretrain", 1)
    finish(tmp_path, "pretrain", status="running")
    finish(tmp_path, "probe")
    assert load_networks(tmp_path, RECIPE, DATA) == []
    leave(tmp_path, "supervised", 2)
    assert [network.role for network in load_networks(tmp_path, RECIPE, DATA)] == ["supervised", "untrained"]
    assert [finished(tmp_path, RECIPE.stage(key)) for key in ("pretrain", "probe", "finetune")] == [False, True, False]


def test_damaged_weights_are_reported(tmp_path: Path):
    leave(tmp_path, "pretrain", 1)
    (tmp_path / "pretrain" / BACKBONE).write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"pretrain/backbone\.safetensors"):
        load_networks(tmp_path, RECIPE, DATA)


def test_a_network_of_another_machine_is_shown_on_the_cpu(tmp_path: Path):
    leave(tmp_path, "pretrain", 1)
    recipe = recipe_of('device = "cuda:99"\n' + STAGES)
    assert {network.device.type for network in load_networks(tmp_path, recipe, DATA)} == {"cpu"}


def test_a_sweep_leaves_room_for_a_network_trained_with_labels():
    swept = recipe_of(STAGES + "[sweep]\n'stages.pretrain.epochs' = [2, 3, 4, 5, 6]\n")
    left = [stage for stage in swept.stages if stage.snapshot is None and stage.name in {"pretrain", "supervised"}]
    pretrained = [stage for stage in left if stage.name == "pretrain"]
    assert [stage.key for stage in choose(left)] == [pretrained[0].key, pretrained[-1].key, "supervised"]
    assert choose(pretrained) == pretrained[::2]
    assert choose([]) == []


@pytest.mark.parametrize(
    ("roles", "kept"),
    [
        (["untrained"], [0]),
        (["pretrained", "untrained"], [0, 1]),
        (["pretrained", "pretrained", "pretrained", "untrained"], [0, 1, 3]),
        (["pretrained", "pretrained", "supervised", "untrained"], [0, 2, 3]),
        (["pretrained", "fine-tuned", "supervised", "untrained"], [0, 1, 3]),
    ],
)
def test_a_shortlist_has_many_roles(roles: list[str], kept: list[int]):
    networks = [network(role, seed=seed) for seed, role in enumerate(roles)]
    assert [network.origin for network in shortlist(networks, 3)] == [f"stage {seed}" for seed in kept]


def test_the_layer_where_a_frozen_network_is_most_accurate(tmp_path: Path):
    networks = [Network("pretrained", "pretrain", built(0))]
    finish(tmp_path, "probe", {"conv1.top1": 50.0}, status="running")
    assert best_layer(tmp_path, RECIPE, networks) is None
    finish(tmp_path, "probe", {"conv1.top1": 50.0, "conv2.top1": 60.0, "conv2.k20.top1": 99.0, "conv9.top1": 98.0})
    finish(tmp_path, "random_probe", {"conv3.top1": 97.0})  # of an untrained network
    finish(tmp_path, "finetune", {"conv3.top1": 96.0})  # not frozen
    assert best_layer(tmp_path, RECIPE, networks) == "conv2"
    assert best_layer(tmp_path, RECIPE, []) is None
    finish(tmp_path, "snapshots/epoch=1", {"conv3.top1": 61.0})
    assert best_layer(tmp_path, RECIPE, networks) == "conv3"
