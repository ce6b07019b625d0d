"""What a stage leaves on disk, and how it is read back: JSON and safetensors, each written beside and renamed, nothing unpickled. And a
backbone in one file, to hand on: weights in half precision, and in the header how to build it and where it comes from.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sslkit.catalog.catalog import Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.contract.backbone import Backbone
from sslkit.contract.class_address import address_of
from sslkit.contract.errors import ArtifactError, PluginError, RecipeError, did_you_mean
from sslkit.contract.images import ImageSpec
from sslkit.contract.objective import Classified
from sslkit.recipe.bundled import bundled_weights
from sslkit.recipe.describe import build_backbone_options, describe_backbone_options
from sslkit.storage.json_files import SavedArtifact, SavedWeights, check_form, find_unfit, read_json
from sslkit.storage.tensor_file import load_tensors, save_tensors

ARTIFACT = "artifact.json"
BACKBONE = "backbone.safetensors"
HEADS = "heads.safetensors"
METRICS = "metrics.jsonl"
PREDICTIONS = "predictions.safetensors"
SNAPSHOTS = "snapshots"

WEIGHTS_FORMAT = 1
"""Of the header of a file of weights; counted up when an older version could not read it."""

_FIX = "get the file again (a bundled one: install sslkit again)"


class BackboneRecord(NamedTuple):
    """How to build a backbone again.

    Attributes:
        spec: its name in the catalog, or ``module:Class``.
        options: of its constructor; None for an object made in Python that only its maker can build again.
    """

    spec: str
    options: dict[str, Any] | None


class Predicted(NamedTuple):
    """What a classifier predicted on the test images: (M,) int64 each.

    Attributes:
        classes: the class that it chose.
        targets: the right one.
    """

    classes: Tensor
    targets: Tensor


class WeightsFile(NamedTuple):
    """A backbone in one file.

    Attributes:
        backbone: how to build it again, as in artifact.json.
        origin: where the weights come from: plain values by name.
        tensors: the network's state, in float32 where it is stored in half precision.
    """

    backbone: Mapping[str, Any]
    origin: Mapping[str, Any]
    tensors: dict[str, Tensor]


def load_backbone(
    path: str | os.PathLike[str], *, snapshot: int | None = None, backbone: Backbone | None = None, allow_code: bool = False
) -> Backbone:
    """Read a backbone that a stage left, or one that ships with sslkit, in eval mode, on the CPU.

    Args:
        path: a stage's folder, or a run's or a variant's if just one stage in it pretrained; or the name of bundled weights, or the path of
            another file that :func:`sslkit.run.publication.publish_backbone` wrote. Bundled weights are hidden by a run's or a stage's
            folder of their name, and by nothing else.
        snapshot: the network after so many epochs, out of the stage's ``snapshot_epochs``; None: the final one.
        backbone: an object to read the weights into; needed where only your program can make it.
        allow_code: import the classes that the artifact names as ``module:Class``. Only for artifacts you trust.

    Raises:
        ArtifactError: there is no backbone, it is damaged, or it cannot be built without ``backbone`` or ``allow_code``.
    """
    found = _find(os.fspath(path))
    if found.is_file():
        if snapshot is not None:
            raise ArtifactError(f"{path}: has no snapshots", found=snapshot, fix="leave snapshot out, or name a stage's folder")
        weights = read_weights(found)
        record, tensors, file = weights.backbone, weights.tensors, found
    else:
        record, file = _record(found), weights_path(found, snapshot)
        tensors, _ = load_tensors(file)
    network = _rebuild(record, found, allow_code) if backbone is None else backbone
    _read_into(network, tensors, file)
    return network.eval()


def weights_path(folder: Path, snapshot: int | None) -> Path:
    """Where a stage keeps its network: the final one, or the one after ``snapshot`` epochs."""
    return folder / BACKBONE if snapshot is None else folder / SNAPSHOTS / f"epoch-{snapshot:04d}.safetensors"


def save_predictions(folder: Path, predictions: Mapping[str, Classified]) -> None:
    """Write the chosen and the right class of every test image, for each classifier."""
    tensors: dict[str, Tensor] = {}
    for name, classified in predictions.items():
        tensors[f"{name}/classes"] = classified.classes.to(torch.int32)
        tensors[f"{name}/targets"] = classified.targets.to(torch.int32)
    save_tensors(folder / PREDICTIONS, tensors)


def load_predictions(folder: Path) -> dict[str, Predicted]:
    """What a stage's classifiers predicted, by name; empty where it has none.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / PREDICTIONS
    if not path.exists():
        return {}
    tensors, _ = load_tensors(path)
    names = [key.removesuffix("/classes") for key in tensors if key.endswith("/classes")]
    return {name: _predicted(tensors, name, path) for name in names}


def _predicted(tensors: Mapping[str, Tensor], name: str, path: Path) -> Predicted:
    pair = [tensors.get(f"{name}/{part}") for part in ("classes", "targets")]
    classes, targets = (torch.empty(0, 0) if labels is None else labels for labels in pair)
    plain_labels = all(labels.ndim == 1 and labels.dtype == torch.int32 and len(labels) for labels in (classes, targets))
    if not plain_labels or len(classes) != len(targets) or min(classes.min(), targets.min()) < 0:
        raise ArtifactError(
            f"{path}: damaged ({name}: not two classes per image)", fix=f"remove the folder {path.parent} to run that stage again"
        )
    return Predicted(classes.long(), targets.long())


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a module's whole state in place.

    Raises:
        ArtifactError: the file is missing or damaged, or holds another architecture.
    """
    tensors, _ = load_tensors(path)
    _read_into(module, tensors, path)


def _read_into(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    other = [name for name, tensor in tensors.items() if name in own and tensor.dtype != own[name].dtype]  # torch would convert them
    reason = f"{other[0]} is {tensors[other[0]].dtype} where {own[other[0]].dtype} belongs" if other else ""
    try:
        if not reason:
            module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
    if reason:
        raise ArtifactError(f"{path}: does not fit {type(module).__name__} ({reason})", fix="build the backbone with the same options")


def save_module(path: Path, module: nn.Module) -> None:
    """Write a module's whole state."""
    save_tensors(path, module.state_dict())


def record_of(backbone: Backbone) -> BackboneRecord:
    """How to build a backbone again that was made in Python: what its constructor was given, where another program finds its class."""
    cls = type(backbone)
    reachable = cls.__module__ != "__main__" and "<locals>" not in cls.__qualname__
    return BackboneRecord(address_of(cls), describe_backbone_options(backbone, Catalog()) if reachable else None)


def describe_backbone(backbone: Backbone, record: BackboneRecord) -> dict[str, Any]:
    """The entry of artifact.json from which :func:`load_backbone` builds the backbone again."""
    return {"class": record.spec, "options": record.options, "image": backbone.image._asdict()}


def read_artifact(folder: Path) -> dict[str, Any]:
    """Read what a stage's folder says of it.

    Raises:
        ArtifactError: it is missing or damaged, or a value has another type than ours.
    """
    return read_json(folder / ARTIFACT, SavedArtifact)


def halve(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions' and linear layers' weights in float16.

    What has one dimension or none stays as it is: biases and BatchNorm's running statistics take next to no space, and a variance may be
    larger than 65,504 or smaller than float16 can tell from 0.
    """
    return {name: tensor.half() if tensor.dtype == torch.float32 and tensor.ndim > 1 else tensor for name, tensor in tensors.items()}


def widen(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`halve` made smaller in float32 again."""
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}


def save_weights(path: Path, tensors: Mapping[str, Tensor], *, backbone: Mapping[str, Any], origin: Mapping[str, Any]) -> None:
    """Write a :class:`WeightsFile`, whole or not at all, its tensors in the types that they have; its folder must exist.

    Raises:
        StorageError: the disk refuses; an old file is untouched.
    """
    save_tensors(path, tensors, {"format": WEIGHTS_FORMAT, "backbone": dict(backbone), "origin": dict(origin)})


def read_weights(path: Path) -> WeightsFile:
    """Read what :func:`save_weights` wrote. Nothing in it is executed.

    Raises:
        ArtifactError: it is missing, damaged, or another kind of file.
    """
    try:
        tensors, header = load_tensors(path)
        if header:
            _check_header(header, path)
    except ArtifactError as error:  # whose advice is for a stage's folder, which could be run again
        raise ArtifactError(error.what, fix=_FIX) from error
    if not header:
        raise ArtifactError(f"{path}: does not say how to build its backbone", fix="name the folder of the stage that left it")
    return WeightsFile(header["backbone"], header["origin"], widen(tensors))


def _check_header(header: Mapping[str, Any], path: Path) -> None:
    if unfit := find_unfit(header):
        raise ArtifactError(f"{path}: damaged ({unfit})")
    if (found := header.get("format")) != WEIGHTS_FORMAT:
        raise ArtifactError(f"{path}: was written by another version of sslkit (format {found}, not {WEIGHTS_FORMAT})")
    check_form(header, SavedWeights, path)


def _find(text: str) -> Path:
    """A stage's folder, or a file of weights."""
    bundled = bundled_weights()
    if text in bundled and not _stages(Path(text)):
        return bundled[text]
    if not os.path.exists(text):  # noqa: PTH110 - a name too long for a file is no file, where Path raises
        if Path(text).name == text:
            fix = did_you_mean(text, bundled) or "name a run's folder or a stage's"
            raise ArtifactError(f"{text}: no such folder, and no bundled weights of this name", allowed=bundled, fix=fix)
        raise ArtifactError(f"{text}: no such folder", fix="name a run's folder or a stage's")
    return Path(text) if Path(text).is_file() else _stage_folder(Path(text))


def _stage_folder(path: Path) -> Path:
    """The folder itself, or the one stage of a run that pretrained."""
    if (path / ARTIFACT).exists():
        return path
    stages = [stage for stage in _stages(path) if read_artifact(stage).get("kind") == "pretrain"]
    if len(stages) != 1:
        found = [stage.relative_to(path).as_posix() for stage in stages]
        raise ArtifactError(f"{path}: no single pretraining stage", found=found, fix="name a stage's folder")
    return stages[0]


def _stages(path: Path) -> list[Path]:
    """The folder itself if it is a stage's, and those of stages in it: a variant's lie one level further down, of each snapshot another."""
    return sorted(file.parent for depth in range(4) for file in path.glob(f"{'*/' * depth}{ARTIFACT}"))


def _record(folder: Path) -> Mapping[str, Any]:
    """How to build the backbone that a stage left."""
    record = read_artifact(folder).get("backbone")
    if record is None or not (folder / BACKBONE).exists():
        raise ArtifactError(f"{folder}: this stage left no backbone", fix="name a folder of pretraining or fine-tuning")
    return record


def _rebuild(record: Mapping[str, Any], folder: Path, allow_code: bool) -> Backbone:
    spec, options = record["class"], record["options"]
    if options is None:
        raise ArtifactError(
            f"{folder}: the backbone {spec} was made in Python, by a script or with arguments that no recipe could hold",
            fix="pass an equal one: load_backbone(path, backbone=...); one whose class lies in a module of its own is built again",
        )
    image = record["image"]
    catalog = load_catalog(allow_code=allow_code)
    image = ImageSpec(**{**image, "mean": tuple(image["mean"]), "std": tuple(image["std"])})
    try:
        return build_backbone_options({"name": spec, **options}, "backbone", catalog).without_downloads().build(image)
    except (PluginError, RecipeError) as error:
        raise ArtifactError(f"{folder}: the backbone cannot be built again ({error})") from error
