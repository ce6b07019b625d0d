import tomllib
from pathlib import Path

import pytest
import torch

from sslkit import ArtifactError, load_catalog
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.run.artifacts import save_module, weights_path
from sslkit.run.networks import begun_with, left_by, untrained
from sslkit.storage.identity import state_hash

RECIPE = parse_recipe(
    tomllib.loads("""
        name = "tiny"
        seed = 3
        data = "digits"
        backbone = { name = "nin", num_blocks = 3, width = 0.05 }

        [stages.pretrain]
        task = { name = "rotnet" }
        epochs = 2
        snapshot_epochs = [1]

        [stages.probe]
        weights = "pretrain"
        evaluator = { name = "knn", layers = ["conv2"] }

        [stages.early_probe]
        weights = "pretrain@1"
        evaluator = { name = "knn", layers = ["conv2"] }

        [stages.random_probe]
        weights = "random"
        evaluator = { name = "knn", layers = ["conv2"] }
    """),
    load_catalog(),
)
DATA = OpenedDataset(RECIPE.data)


def seeded(recipe: Recipe, seed: int) -> torch.nn.Module:
    return untrained(recipe.stages[0].backbone, DATA.image(), seed)


def test_random_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    first = state_hash(seeded(RECIPE, 3))
    torch.manual_seed(11)
    assert state_hash(seeded(RECIPE, 3)) == first
    assert state_hash(seeded(RECIPE, 4)) != first
    torch.set_rng_state(state)
    seeded(RECIPE, 3)
    assert torch.equal(torch.get_rng_state(), state), "whoever draws next must not notice"


def test_untrained_stages_begin_with_one_network(tmp_path: Path):
    stages = [RECIPE.stage(key) for key in ("pretrain", "random_probe")]
    hashes = {state_hash(begun_with(RECIPE, stage, DATA, tmp_path)) for stage in stages}
    assert hashes == {state_hash(seeded(RECIPE, 3))}


def test_a_stage_begins_with_what_an_earlier_one_left(tmp_path: Path):
    final, snapshot = seeded(RECIPE, 5), seeded(RECIPE, 6)
    weights_path(tmp_path / "pretrain", 1).parent.mkdir(parents=True)
    save_module(weights_path(tmp_path / "pretrain", None), final)
    save_module(weights_path(tmp_path / "pretrain", 1), snapshot)
    state = torch.get_rng_state()
    assert state_hash(left_by(RECIPE, RECIPE.stage("pretrain"), DATA, tmp_path)) == state_hash(final)
    assert torch.equal(torch.get_rng_state(), state)
    assert state_hash(begun_with(RECIPE, RECIPE.stage("probe"), DATA, tmp_path)) == state_hash(final)
    assert state_hash(begun_with(RECIPE, RECIPE.stage("early_probe"), DATA, tmp_path)) == state_hash(snapshot)


def test_weights_that_are_not_there_are_reported(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"pretrain/backbone\.safetensors"):
        left_by(RECIPE, RECIPE.stage("pretrain"), DATA, tmp_path)
