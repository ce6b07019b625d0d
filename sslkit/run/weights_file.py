"""A backbone in one file, to hand on: weights in half precision, and in the header how to build it and where it comes from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkit.contract.errors import ArtifactError
from sslkit.storage.json_files import SavedWeights, check_form, find_unfit
from sslkit.storage.tensor_file import load_tensors, save_tensors

FORMAT = 1
"""Of the header; counted up when an older version could not read it."""

_FIX = "get the file again (a bundled one: install sslkit again)"


class WeightsFile(NamedTuple):
    """What such a file holds.

    Attributes:
        backbone: how to build it again, as in artifact.json.
        origin: where the weights come from: plain values by name.
        tensors: the network's state, in float32 where it is stored in half precision.
    """

    backbone: Mapping[str, Any]
    origin: Mapping[str, Any]
    tensors: dict[str, Tensor]


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
    """Write such a file, whole or not at all; its folder must exist.

    Args:
        path: where; replaced if it exists.
        tensors: the network's state, in the types that it is to be stored in.
        backbone: see :class:`WeightsFile`.
        origin: see :class:`WeightsFile`.

    Raises:
        StorageError: the disk refuses; an old file is untouched.
    """
    save_tensors(path, tensors, {"format": FORMAT, "backbone": dict(backbone), "origin": dict(origin)})


def read_weights(path: Path) -> WeightsFile:
    """Read what :func:`save_weights` wrote. Nothing in it is executed.

    Raises:
        ArtifactError: it is missing, damaged, or another kind of file.
    """
    try:
        tensors, header = load_tensors(path)
        if header:
            _check(header, path)
    except ArtifactError as error:  # whose advice is for a stage's folder, which could be run again
        raise ArtifactError(error.what, fix=_FIX) from error
    if not header:
        raise ArtifactError(f"{path}: does not say how to build its backbone", fix="name the folder of the stage that left it")
    return WeightsFile(header["backbone"], header["origin"], widen(tensors))


def _check(header: Mapping[str, Any], path: Path) -> None:
    if unfit := find_unfit(header):
        raise ArtifactError(f"{path}: damaged ({unfit})")
    if (found := header.get("format")) != FORMAT:
        raise ArtifactError(f"{path}: was written by another version of sslkit (format {found}, not {FORMAT})")
    check_form(header, SavedWeights, path)
