"""A pretrained backbone to hand on: its weights in half precision, and a model card that says what they are and where they come from."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

from sslkit.contract.backbone import Backbone
from sslkit.contract.errors import ArtifactError, OptionError
from sslkit.recipe.stages import AS_BUILT
from sslkit.recipe.toml import read_table
from sslkit.recipe.weights import is_outside
from sslkit.run.artifacts import ARTIFACT, halve, load_backbone, read_artifact, save_weights, widen
from sslkit.storage.atomic import make_folder
from sslkit.storage.identity import state_hash
from sslkit.storage.json_files import write_text

TOLERANCE = 0.01
"""Of the largest feature of a layer: how far half precision may move any of them."""

_NUM_IMAGES = 32
"""To compare features on."""


class TrainingData(NamedTuple):
    """What a network has seen, in words: no folder of a run tells.

    Attributes:
        name: to stand beside every result.
        description: what it is, in a sentence.
        terms: under which the images may be used, in a sentence.
        hub_name: of the dataset on the Hugging Face hub; empty: it is not there.
    """

    name: str
    description: str
    terms: str
    hub_name: str = ""


class Published(NamedTuple):
    """The two files.

    Attributes:
        weights: what ``load_backbone`` reads.
        card: Markdown, with the front matter of the Hugging Face hub.
    """

    weights: Path
    card: Path


def publish_backbone(stage: Path, target: Path, *, name: str, data: TrainingData, note: str = "", commit: str = "") -> Published:
    """Write the backbone of a finished pretraining stage as ``<name>.safetensors``, and its model card as ``<name>.md``.

    When more stages of the run have evaluated the backbone, the same call writes the card again with their metrics, and the same weights.

    Args:
        stage: its folder, in the run's.
        target: the folder of the two files; made where it is missing.
        name: what they are called.
        data: what the network has seen.
        note: a sentence for the card: what these weights are for, and what not.
        commit: of the sources that trained it, where the run could not tell: on a machine without their history.

    Raises:
        OptionError: the name is none for a file.
        ArtifactError: the stage is not finished, did not pretrain, has a backbone that nobody can build again without code of yours, or
            one whose features half precision moves too far.
        StorageError: the disk refuses.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise OptionError("name", "must be a plain word", found=name, allowed="letters, digits, - and _")
    artifact = read_artifact(stage)
    if (found := (artifact.get("kind"), artifact.get("status"))) != ("pretrain", "finished"):
        fix = "name a stage that pretrained, or run its recipe to the end"
        raise ArtifactError(f"{stage}: no finished pretraining", found=f"{found[0]}, {found[1]}", fix=fix)
    recipe = read_table(stage.parent / "recipe.toml") if (stage.parent / "recipe.toml").exists() else {}
    if "sweep" in recipe or stage.name not in recipe.get("stages", {}):
        fix = "run the variant as a recipe of its own, and name <run>/<stage>"
        raise ArtifactError(f"{stage}: is no stage of a run without a sweep", fix=fix)
    backbone = load_backbone(stage)
    tensors = halve(backbone.state_dict())
    difference = _difference(backbone, widen(tensors))
    if not difference <= TOLERANCE:  # which NaN is not either
        raise ArtifactError(f"{stage}: half precision changes its features too much", found=difference, allowed=f"at most {TOLERANCE}")
    files = Published(target / f"{name}.safetensors", target / f"{name}.md")
    environment, line = artifact["environments"][-1], _ancestry(recipe, stage.name)
    origin = {
        "sha256": state_hash(backbone),
        "num_images": artifact["num_images"],
        "metrics": artifact["metrics"],
        "device": artifact["device"],
        "seconds": artifact["seconds"],
        "precision": artifact["identity"]["precision"],
        "started": artifact["environments"][0]["started"],
        "commit": environment["commit"] or commit,
        "versions": environment["versions"],
    }
    make_folder(target)
    save_weights(files.weights, tensors, backbone=artifact["backbone"], origin=origin)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    templates.filters["options"] = _options
    card = templates.get_template("model_card.md.jinja").render(
        name=name,
        data=data,
        note=note,
        origin=origin,
        recipe=recipe,
        alone=_alone(recipe, line),
        teaching=_teaching([recipe["stages"][key] for key in line]),
        stage=stage.name,
        record=artifact["backbone"],
        layers=backbone.feature_info,
        num_parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        difference=difference,
        num_bytes=files.weights.stat().st_size,
        sha256=hashlib.sha256(files.weights.read_bytes()).hexdigest(),
        num_images=_NUM_IMAGES,
        evaluations=list(_evaluations(stage, artifact["fingerprint"], recipe)),
    )
    write_text(files.card, card)
    return files


def _difference(backbone: Backbone, tensors: Mapping[str, Tensor]) -> float:
    """How far another state moves the backbone's features: the largest change, relative to the largest feature of its layer."""
    other = copy.deepcopy(backbone)
    other.load_state_dict(dict(tensors))
    image = backbone.image
    shape = (_NUM_IMAGES, image.num_chs, image.height, image.width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (network(images, network.layer_names) for network in (backbone, other))
    changes = [(after[layer] - features).abs().max() / features.abs().max() for layer, features in before.items()]
    return torch.stack(changes).max().item()


def _ancestry(recipe: Mapping[str, Any], stage: str) -> list[str]:
    """The stages that a stage's weights come from, the first one first, and the stage."""
    stages = recipe["stages"]
    line = [stage]
    while (earlier := stages[line[0]]["weights"].partition("@")[0]) in stages:  # pretrain@5 is a snapshot of pretrain
        line.insert(0, earlier)
    return line


def _alone(recipe: Mapping[str, Any], stages: Sequence[str]) -> str:
    """The recipe of these stages, without the folders of this machine."""
    settings = {key: value for key, value in recipe.items() if key not in {"data", "stages", "paper", "margins", "observers"}}
    tables = {key: dict(recipe["stages"][key]) for key in stages}
    for table in tables.values():
        if is_outside(table["weights"]):
            kind, _, path = table["weights"].partition(":")
            table["weights"] = f"{kind}:/path/to/{Path(path).name}"
        if "data" in table:
            table["data"] = _elsewhere(table["data"])
    return tomli_w.dumps({**settings, "data": _elsewhere(recipe["data"]), "stages": tables})


def _elsewhere(data: Mapping[str, Any]) -> dict[str, Any]:
    """A table of data without the folders of this machine."""
    return {key: f"/path/to/{Path(value).name}" if isinstance(value, str) and "/" in value else value for key, value in data.items()}


def _teaching(stages: Sequence[Mapping[str, Any]]) -> str:
    """What a network has learnt from besides images: labels, or whatever taught the weights that it began with."""
    if any("evaluator" in table for table in stages):
        return "after training with labels"
    pretrained = stages[0]["weights"] == AS_BUILT and stages[0]["backbone"].get("pretrained")
    if is_outside(stages[0]["weights"]):
        return "beginning with weights from elsewhere"
    return "beginning with the published weights of its backbone" if pretrained else "without labels"


def _evaluations(stage: Path, fingerprint: str, recipe: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The name, evaluator and artifact of each finished stage that began with this backbone, in the recipe's order."""
    for name, table in recipe["stages"].items():
        path = stage.parent / name / ARTIFACT
        artifact = read_artifact(path.parent) if path.exists() else {}
        begun_with = (artifact.get("identity", {}).get("backbone") or {}).get("weights")
        if artifact.get("status") == "finished" and "evaluator" in table and begun_with == fingerprint:
            yield name, table["evaluator"]["name"], artifact


def _options(table: Mapping[str, Any]) -> str:
    """A class and its options in a line."""
    return ", ".join([f"`{table['name']}`", *(f"{key} = {json.dumps(value)}" for key, value in table.items() if key != "name")])
