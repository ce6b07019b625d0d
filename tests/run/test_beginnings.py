"""What a stage begins with: ``random`` is never pretrained, ``backbone`` is what ``[backbone]`` builds."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tomli_w
import torch

from sslkit import NIN, Catalog, ImageSpec, RecipeError, load_backbone, load_catalog, run_recipe
from sslkit.audit.task_audit import small_backbone
from sslkit.catalog.catalog import Offer
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.report.pictures.networks import load_networks
from sslkit.run.artifacts import read_artifact
from sslkit.run.networks import begun_with, left_by
from sslkit.run.preflight import check_recipe
from sslkit.run.publication import TrainingData, publish_backbone
from sslkit.storage.identity import state_hash
from tests.observers import Recorder
from tests.run.model_cards import read_card

RECIPE = """
name = "begun"
device = "cpu"
data = "digits"
backbone = { name = "published", pretrained = true }

[stages.random_probe]
weights = "random"
evaluator = { name = "knn", layers = ["conv2"] }

[stages.probe]
weights = "backbone"
evaluator = { name = "knn", layers = ["conv2"] }

[stages.supervised]
weights = "random"
evaluator = { name = "supervised", epochs = 1, batch_size = 500 }

[stages.finetune]
weights = "backbone"
evaluator = { name = "finetune", epochs = 1, batch_size = 500 }

[stages.tuned_probe]
weights = "finetune"
evaluator = { name = "knn", layers = ["conv2"] }

[stages.pretrain]
weights = "backbone"
task = { name = "rotnet" }
epochs = 1
batch_size = 500

[stages.pretrain_anew]
task = { name = "rotnet" }
epochs = 1
batch_size = 500
"""


class Published(NIN):
    """Has weights of its own to fetch; there are none while it is ``away``."""

    away: ClassVar[bool] = False
    fetched: ClassVar[list[str]] = []

    def __init__(self, image: ImageSpec, *, pretrained: bool = False) -> None:
        super().__init__(image, num_blocks=3, width=0.05)
        if pretrained:
            if self.away:
                raise RuntimeError("must not be built here")
            self.fetched.append(self.mean.device.type)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).reshape(parameter.shape))


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    installed = load_catalog()
    return replace(installed, offers=(*installed.offers, Offer("backbones", "published", Published, None)))


@pytest.fixture(autouse=True)
def reachable():
    Published.away = False
    Published.fetched.clear()


def parse(catalog: Catalog, text: str = RECIPE, **top: Any) -> Recipe:
    return parse_recipe({**tomllib.loads(text), **top}, catalog)


def off(recipe: dict[str, Any] | str = RECIPE) -> str:
    text = recipe if isinstance(recipe, str) else tomli_w.dumps(recipe)
    return text.replace("pretrained = true", "pretrained = false")


def refused(catalog: Catalog, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(catalog, text)
    return str(caught.value)


def outcome(path: Path) -> dict[str, Any]:
    return {key: value for key, value in read_artifact(path).items() if key not in ("seconds", "finished", "environments")}


def test_random_is_random_and_backbone_is_pretrained_through_a_whole_run(catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mine, plain = tmp_path / "mine", tmp_path / "plain"
    recipe = parse(catalog)
    run_recipe(recipe, output=mine, report=False)
    run_recipe(parse(catalog, off()), output=plain, report=False)
    for key in ("random_probe", "supervised", "pretrain_anew"):
        assert outcome(mine / key) == outcome(plain / key), "what begins with random weights must not know of pretrained ones"
    for key in ("probe", "finetune", "tuned_probe", "pretrain"):
        assert read_artifact(mine / key)["identity"] != read_artifact(plain / key)["identity"]
    data = OpenedDataset(recipe.data)
    published = state_hash(Published(data.image(), pretrained=True))
    begun = {stage.key: state_hash(begun_with(recipe, stage, data, mine)) for stage in recipe.stages}
    assert {key for key, known in begun.items() if known == published} == {"probe", "finetune", "pretrain"}
    assert begun["random_probe"] == begun["supervised"] == begun["pretrain_anew"] != published
    assert begun["tuned_probe"] == state_hash(left_by(recipe, recipe.stage("finetune"), data, mine))
    assert read_artifact(mine / "probe")["frozen_backbone"]["sha256_before"] == published

    Published.away = True  # what a run left is looked at without fetching anything
    monkeypatch.setattr("sslkit.run.artifacts.load_catalog", lambda **_options: catalog)
    assert state_hash(load_backbone(mine / "finetune")) == begun["tuned_probe"]
    roles = {network.name for network in load_networks(mine, recipe, data)}
    assert {"supervised (supervised)", "untrained (random weights)"} <= roles
    card = publish_backbone(mine / "pretrain", tmp_path, name="one", data=TrainingData("Digits", "Digits.", "Yours.")).card
    anew = publish_backbone(mine / "pretrain_anew", tmp_path, name="two", data=TrainingData("Digits", "Digits.", "Yours.")).card
    assert "on Digits, beginning with the published weights of its backbone, on" in card.read_text()
    assert "on Digits, without labels, on" in anew.read_text()
    assert read_card(anew).facts["Backbone"] == "published, pretrained = false"


def test_the_resolved_recipe_begins_with_the_same_networks(catalog: Catalog):
    recipe = parse(catalog)
    assert parse(catalog, tomli_w.dumps(dict(recipe.table))).stages == recipe.stages
    assert {key: table["backbone"]["pretrained"] for key, table in recipe.table["stages"].items() if "backbone" in table} == {
        "random_probe": False,
        "probe": True,
        "supervised": False,
        "finetune": True,
        "pretrain": True,
        "pretrain_anew": False,
    }


def test_a_sweep_tells_the_two_apart_and_runs_what_begins_alike_once(catalog: Catalog):
    stages = '[stages.probe]\nweights = "random"\nevaluator = { name = "knn", layers = ["conv2"] }\n'
    head = 'name = "begun"\ndata = "digits"\nbackbone = { name = "published", pretrained = true }\n'
    swept = parse(catalog, head + stages + '[sweep]\n"stages.probe.weights" = ["random", "backbone"]\n')
    assert [(stage.key, stage.weights) for stage in swept.stages] == [
        ("weights=random/probe", "random"),
        ("weights=backbone/probe", "backbone"),
    ]
    both = stages + '[stages.built]\nweights = "backbone"\nevaluator = { name = "knn", layers = ["conv2"] }\n'
    swept = parse(catalog, head + both + '[sweep]\n"backbone.pretrained" = [true, false]\n')
    assert [stage.key for stage in swept.stages] == ["probe", "pretrained=true/built", "pretrained=false/built"]


def test_training_from_scratch_takes_random_weights_alone(catalog: Catalog):
    text = RECIPE.replace('[stages.supervised]\nweights = "random"', '[stages.supervised]\nweights = "backbone"')
    expected = "stages.supervised.weights: this evaluator trains from scratch; found 'backbone'; allowed: \"random\""
    assert refused(catalog, text) == refused(catalog, off(text)) == expected


def test_no_stage_is_called_what_weights_already_mean(catalog: Catalog):
    text = RECIPE.replace("[stages.pretrain]", "[stages.backbone]")
    assert refused(catalog, text) == "stages.backbone: in weights, this word means what [backbone] builds; choose another name"
    assert refused(catalog, RECIPE.replace('weights = "backbone"', 'weights = "backbone@each"')).startswith(
        "stages.probe.weights: no such stage; found 'backbone@each'; allowed: random_probe, random, backbone, run:PATH#stage, file:PATH; did you mean 'backbone'?"
    )


def test_pretrained_weights_that_nobody_takes_are_noted(catalog: Catalog, tmp_path: Path):
    note = 'backbone.pretrained: no stage begins with these weights, as "random" ones are never pretrained; set weights = "backbone"'
    probe = '[stages.probe]\nweights = "random"\nevaluator = { name = "knn", layers = ["conv2"] }\n'
    head = 'name = "begun"\ndevice = "cpu"\ndata = "digits"\nbackbone = { name = "published", pretrained = true }\n'
    unused = parse(catalog, head + probe)
    assert unused.notes == (note,)
    seen = Recorder()
    run_recipe(unused, output=tmp_path / "run", observers=[seen], report=False)
    assert note in seen.messages()
    own = head.replace("true", "false") + probe + "backbone = { pretrained = true }\n"
    assert parse(catalog, own).notes == (f"stages.probe.{note}",)
    assert parse(catalog).notes == parse(catalog, off()).notes == ()


def test_a_check_fetches_nothing_and_a_run_fetches_before_it_computes(catalog: Catalog, tmp_path: Path):
    Published.away = True
    assert check_recipe(parse(catalog)) == ""
    with pytest.raises(RuntimeError, match="must not be built here"):
        run_recipe(parse(catalog), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    Published.away = False
    assert small_backbone(catalog)  # an audit has a network of its own
    assert Published.fetched == []
