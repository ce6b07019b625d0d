"""The pretext task: which of K geometric transforms was applied? Gidaris et al. 2018, arXiv:1803.07728."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator, Tensor, nn

from sslkit import Backbone, Batch, Classification, DataInfo, ImageSpec, OptionError, PretextTask
from sslkit_rotnet.transforms import MIN_SIDE, NAMED, Interpolation, Transform, is_exact, rotation, transform_all

QUARTERS = (0, 90, 180, 270)


@final
@dataclass(frozen=True, kw_only=True)
class RotNet(PretextTask):
    """Predict the transform of an image; by default which of the rotations by 0, 90, 180 and 270 degrees.

    Every image is seen under all K of them. Images that are not square are cut to their central square.

    Attributes:
        angles: counter-clockwise rotations in degrees, distinct modulo 360, at least two; not together with ``transforms``.
            Multiples of 90 are exact; with any other angle all classes are interpolated from a common, smaller window.
        transforms: a set of named transforms instead, distinct, at least two of: identity, rotate90, rotate180, rotate270,
            horizontal_flip, vertical_flip, transpose (all exact), scale (larger by a half), translate (right and down by an eighth
            of the side). With either of the last two, all classes are interpolated from a common window of 3/4 of the side or less.
        interpolation: of a set that is not exact. ``common`` is as said above. The other two show what it is good for: they leave the
            exact classes of the set as they are and interpolate the others alone, so that the network can distinguish them without
            looking at the picture. ``in_place``: in the image's frame, which leaves black corners or a black margin; ``one_sided``:
            each from its own largest window inside of the image, resized. For ``scale`` they are the same.
    """

    angles: tuple[float, ...] | None = None
    transforms: tuple[str, ...] | None = None
    interpolation: Interpolation = "common"

    def __post_init__(self) -> None:
        angles, names = self.angles, self.transforms
        if angles is not None and names is not None:
            raise OptionError("transforms", "excludes angles", fix="give one of the two; rotate90 and the like are transforms too")
        if angles is not None and (len(angles) < 2 or len(set(map(rotation, angles))) < len(angles)):
            raise OptionError("angles", "must be at least two numbers of degrees, all different modulo 360", found=angles)
        if names is not None and (len(names) < 2 or len(set(names)) < len(names) or not set(names) <= set(NAMED)):
            raise OptionError("transforms", "must be at least two of the known names, all different", found=names, allowed=NAMED)
        if self.interpolation != "common" and is_exact(self.classes):
            fix = "leave it out, or add an angle between the quarters, scale or translate"
            raise OptionError("interpolation", "there is none in this set", found=self.interpolation, allowed="'common'", fix=fix)

    @property
    def classes(self) -> tuple[Transform, ...]:
        """The K transforms, in the order of their labels."""
        return tuple(NAMED[name] for name in self.transforms) if self.transforms else tuple(map(rotation, self.angles or QUARTERS))

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the K transforms are called, in the order of their labels."""
        return self.transforms or tuple(f"{angle:g}°" for angle in self.angles or QUARTERS)

    def image_spec(self, data: ImageSpec) -> ImageSpec:
        """The central square of the data's images."""
        side = min(data.height, data.width)
        if side < MIN_SIDE and not is_exact(self.classes):
            option = "angles" if self.transforms is None else "transforms"
            raise OptionError(option, f"interpolation needs images of at least {MIN_SIDE} x {MIN_SIDE} pixels", found=side)
        return data._replace(height=side, width=side)

    def build_objective(self, backbone: Backbone, data: DataInfo) -> "TransformPrediction":
        """A linear classifier of the K transforms on the backbone's deepest layer."""
        return TransformPrediction(backbone, self)


class TransformPrediction(Classification):
    """Cross-entropy of a linear head on the globally averaged deepest layer, as the mean over all K copies of all N images."""

    def __init__(self, backbone: Backbone, task: RotNet) -> None:
        super().__init__(backbone, task.class_names)
        self.transforms = task.classes
        self.interpolation: Interpolation = task.interpolation
        nn.init.normal_(self.head.weight, std=math.sqrt(2 / self.head.out_features))
        nn.init.zeros_(self.head.bias)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        """``images`` (K * N, C, S, S) uint8, class after class, and ``labels`` (K * N,) int64. Draws nothing."""
        labels = torch.arange(len(self.transforms), device=batch.images.device).repeat_interleave(len(batch.images))
        return {"images": transform_all(batch.images, self.transforms, self.interpolation), "labels": labels}
