"""Publishing a trained backbone: the file gives the network back, and the card says everything that belongs beside it."""

import hashlib
import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

import publish_weights
from sslkit import ArtifactError, OptionError, load_backbone, load_catalog, load_recipe, run_recipe
from sslkit.recipe.recipe import parse_recipe
from sslkit.run.artifacts import ARTIFACT, BACKBONE, read_artifact, read_weights, save_module
from sslkit.run.publication import TOLERANCE, Published, TrainingData, publish_backbone
from sslkit.storage.identity import state_hash
from tests.recipes import SMALL
from tests.run.model_cards import FACTS, read_card

DATA = TrainingData("Digits", "Handwritten digits, 8 x 8 pixels.", "Anybody may use them.", "someone/digits")
STAGES = """
[stages.random_probe]
weights = "random"
evaluator = { name = "linear_probe", layers = ["conv2"], epochs = 1, batch_size = 500 }

[stages.nearest]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv2"] }

[margins]
"pretraining" = ["probe.conv2.top1", "random_probe.conv2.top1"]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_recipe(parse_recipe(tomllib.loads(SMALL + STAGES), load_catalog()), output=folder, report=False)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


def publish(run: Path, **options: Any) -> Published:
    return publish_backbone(run / "pretrain", run.parent / "weights", **{"name": "digits_nin", "data": DATA, **options})


def with_environment(run: Path, **values: Any) -> None:
    (environment,) = read_artifact(run / "pretrain")["environments"]
    rewrite(run / "pretrain" / ARTIFACT, environments=[{**environment, **values}])


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# -------------------------------------------------------------------------------------------------------------------- the file


def test_the_file_gives_the_trained_network_back(run: Path):
    trained, loaded = load_backbone(run / "pretrain"), load_backbone(publish(run).weights)
    assert loaded.image == trained.image
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        for layer in trained.layer_names:
            before, after = trained.embed(images, layer), loaded.embed(images, layer)
            assert (after - before).abs().max() <= TOLERANCE * before.abs().max()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name].half().float() if tensor.ndim > 1 else trained.state_dict()[name]), name


def test_equal_runs_leave_equal_files(run: Path):
    first = publish(run).weights.read_bytes()
    assert publish(run, name="other").weights.read_bytes() == first


# -------------------------------------------------------------------------------------------------------------------- the card


def test_the_card_says_everything(run: Path):
    files = publish(run, note="Only for tests.")
    card, artifact = read_card(files.card), read_artifact(run / "pretrain")
    (environment,) = artifact["environments"]
    assert card.facts.keys() == FACTS
    assert all(card.facts.values())
    assert card.facts["Task"].startswith("rotnet")
    assert card.facts["Backbone"] == "nin, num_blocks = 3, width = 0.05, pool_after_conv3 = false"
    assert card.facts["Parameters"] == f"{sum(p.numel() for p in load_backbone(files.weights).parameters()):,}"
    assert card.facts["Input"] == "8 x 8 pixels, gray"
    assert card.facts["Layers"] == "conv1 (5), conv2 (10), conv3 (10)"
    assert card.facts["Data"] == f"Digits, {artifact['num_images']:,} images"
    assert card.facts["Training"] == "1 epoch, batch size 500, precision auto, seed 0; stage pretrain of small"
    assert card.facts["Hardware"] == artifact["device"]
    assert float(card.facts["Seconds"].replace(",", "")) == round(artifact["seconds"])
    assert f"torch {torch.__version__}" in card.facts["Versions"]
    assert card.facts["Commit"] == environment["commit"] or not environment["commit"]
    assert card.facts["Date"] == environment["started"][:10]
    assert card.facts["File"] == f"digits_nin.safetensors, {files.weights.stat().st_size:,} bytes"
    assert card.facts["SHA-256 of the file"] == hashlib.sha256(files.weights.read_bytes()).hexdigest()
    assert "Only for tests.\n" in files.card.read_text()
    assert DATA.description in card.sections["Data"]
    assert "Apache-2.0" in card.sections["Licence"]
    assert DATA.terms in card.sections["Licence"]


def test_the_front_matter_is_the_hubs(run: Path):
    assert read_card(publish(run).card).front == {
        "license": "apache-2.0",
        "library_name": "sslkit",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["self-supervised-learning", "rotnet", "nin"],
        "datasets": ["someone/digits"],
        "metrics": ["accuracy"],
    }
    assert "datasets" not in read_card(publish(run, data=DATA._replace(hub_name="")).card).front


def test_the_trained_state_is_the_one_that_was_evaluated(run: Path):
    found = read_card(publish(run).card).facts["SHA-256 of the trained state"]
    assert found == state_hash(load_backbone(run / "pretrain"))
    assert found == read_artifact(run / "probe")["frozen_backbone"]["sha256_after"]


def test_the_metrics_are_those_of_the_weights_alone(run: Path):
    metrics = read_card(publish(run).card).metrics
    assert {stage for stage, _ in metrics} == {"pretrain", "probe", "nearest"}  # and no random_probe
    for stage in ("pretrain", "probe", "nearest"):
        expected = {(stage, name): pytest.approx(value, abs=0.01) for name, value in read_artifact(run / stage)["metrics"].items()}
        assert {key: value for key, value in metrics.items() if key[0] == stage} == expected


def test_a_stage_that_is_not_finished_has_no_metrics_yet(run: Path):
    rewrite(run / "probe" / ARTIFACT, status="running")
    shutil.rmtree(run / "nearest")
    assert {stage for stage, _ in read_card(publish(run).card).metrics} == {"pretrain"}


def test_the_cards_recipe_trains_the_same_network(run: Path, tmp_path: Path):
    (tmp_path / "again.toml").write_text(read_card(publish(run).card).recipe)
    again, before = load_recipe(tmp_path / "again.toml"), load_recipe(run / "recipe.toml")
    assert [stage.key for stage in again.stages] == ["pretrain"]
    assert again.stages[0] == before.stage("pretrain")
    assert again.data == before.data


def test_the_cards_recipe_has_the_stages_before(run: Path):
    text = (run / "recipe.toml").read_text()
    table = tomllib.loads(text)
    table["stages"] = {"warm_up": table["stages"]["pretrain"], **table["stages"]}
    table["stages"]["pretrain"] = {**table["stages"]["pretrain"], "weights": "warm_up@1"}
    (run / "recipe.toml").write_text(tomli_w.dumps(table))
    assert list(tomllib.loads(read_card(publish(run).card).recipe)["stages"]) == ["warm_up", "pretrain"]


def test_no_folder_of_this_machine_is_reported(run: Path):
    text = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(text.replace('name = "digits"', 'name = "image_folder"\nroot = "/home/me/secret/cifar"'))
    files = publish(run)
    assert tomllib.loads(read_card(files.card).recipe)["data"]["root"] == "/path/to/cifar"
    for content in (files.card.read_bytes(), files.weights.read_bytes()):
        assert b"secret" not in content
        assert str(run.parent).encode() not in content


# --------------------------------------------------------------------------------------------------------------- publishing again


def test_the_card_grows_and_the_weights_stay(run: Path):
    whole = read_artifact(run / "nearest")
    rewrite(run / "nearest" / ARTIFACT, status="running")
    first = publish(run).weights.read_bytes()
    started = read_card(publish(run).card).facts["Date"]
    rewrite(run / "nearest" / ARTIFACT, **whole)
    files = publish(run)
    assert files.weights.read_bytes() == first
    card = read_card(files.card)
    assert ("nearest", "conv2.top1") in card.metrics
    assert card.facts["Date"] == started


def test_other_weights_replace_the_file(run: Path):
    publish(run)
    network = load_backbone(run / "pretrain")
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    save_module(run / "pretrain" / BACKBONE, network)
    with_environment(run, started="2031-01-01T00:00:00+00:00")
    files = publish(run)
    assert read_card(files.card).facts["Date"] == "2031-01-01"
    assert read_weights(files.weights).origin["sha256"] == state_hash(network)


def test_a_commit_may_be_given_where_the_run_has_none(run: Path):
    with_environment(run, commit="")
    assert read_card(publish(run).card).facts["Commit"] == "not known"
    assert read_card(publish(run, commit="0123456789ab").card).facts["Commit"] == "0123456789ab"


# ------------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "a.safetensors"])
def test_names_that_are_no_plain_words_are_refused(run: Path, name: str):
    with pytest.raises(OptionError, match=r"^name: must be a plain word; found '.*'; allowed: letters, digits, - and _$"):
        publish(run, name=name)


@pytest.mark.parametrize(
    ("change", "found"),
    [({"status": "running"}, "pretrain, running"), ({"kind": "evaluate"}, "evaluate, finished")],
    ids=["running", "probe"],
)
def test_what_is_no_finished_pretraining_is_refused(run: Path, change: dict[str, str], found: str):
    rewrite(run / "pretrain" / ARTIFACT, **change)
    with pytest.raises(ArtifactError, match=rf"pretrain: no finished pretraining; found '{found}'; name a stage that pretrained, or"):
        publish(run)


@pytest.mark.parametrize("recipe", ["", "[stages.other]\n", "[sweep]\nx = 1\n[stages.pretrain]\n"], ids=["none", "another", "a sweep"])
def test_a_stage_without_its_run_is_refused(run: Path, recipe: str):
    (run / "recipe.toml").write_text(recipe) if recipe else (run / "recipe.toml").unlink()
    with pytest.raises(ArtifactError, match=r"pretrain: is no stage of a run without a sweep; run the variant as a recipe of its own"):
        publish(run)


@pytest.mark.parametrize("options", [None, {}], ids=["made in Python", "code"])
def test_a_backbone_that_only_its_maker_can_build_is_refused(run: Path, options: dict[str, Any] | None):
    backbone = read_artifact(run / "pretrain")["backbone"]
    record = {**backbone, "class": "tests.contract.miniatures.backbones:TinyConv", "options": options}
    rewrite(run / "pretrain" / ARTIFACT, backbone=record)
    with pytest.raises(ArtifactError, match=r"was made in Python|code outside the catalog"):
        publish(run)


@pytest.mark.parametrize("value", [1e6, float("nan")], ids=["large", "NaN"])
def test_features_that_half_precision_moves_too_far_are_refused(run: Path, value: float):
    network = load_backbone(run / "pretrain")
    with torch.no_grad():
        next(network.parameters()).fill_(value)
    save_module(run / "pretrain" / BACKBONE, network)
    with pytest.raises(ArtifactError, match=r"pretrain: half precision changes its features too much; found .*; allowed: at most 0\.01$"):
        publish(run)
    assert not (run.parent / "weights").exists()


# ------------------------------------------------------------------------------------------------------------------ the script


def test_the_script_publishes(run: Path, capsys: pytest.CaptureFixture[str]):
    target = run.parent / "weights"
    arguments = [str(run), "--name", "mine", "--data", "CIFAR-10 (JPEG)", "--note", "A note.", "--target", str(target)]
    assert publish_weights.main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[1] == str(target / "mine.md")
    card = read_card(target / "mine.md")
    assert card.facts["Data"].startswith("CIFAR-10 (JPEG), ")
    assert "re-encoded as JPEG" in card.sections["Data"]
    assert "carry no licence of their own" in card.sections["Licence"]
    assert publish_weights.main([str(run), "--stage", "probe", "--name", "mine", "--data", "CIFAR-10", "--target", str(target)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {run / 'probe'}: no finished pretraining; ")


def test_the_script_publishes_where_names_are_looked_up():
    assert (publish_weights.WEIGHTS.parent / "quickstart.toml").exists()
