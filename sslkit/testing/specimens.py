"""What the checks try an object on: random images, labels, and a backbone of two layers; and where they do."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from sslkit.contract.backbone import Backbone, FeatureInfo
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Event, StepEnd
from sslkit.contract.images import ImageSet, ImageSpec
from sslkit.contract.runtime import Runtime
from sslkit.data.arrays import ArraySet
from sslkit.testing.promises import BrokenPromiseError
from sslkit.training.seeds import global_seed, make_generator

IMAGE = ImageSpec(32, 32, "rgb", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""What the random images are unless you say otherwise."""

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")

Build = Callable[[ImageSpec], Backbone]
"""A backbone's class, or a function that sets its options."""


class TinyBackbone(Backbone):
    """Two strided convolutions with BatchNorm: layers ``shallow`` (4 channels, half the size) and ``deep`` (8 channels, a quarter)."""

    feature_info = (FeatureInfo("shallow", 4, 2), FeatureInfo("deep", 8, 4))

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.shallow = _convolution(image.num_chs, 4)
        self.deep = _convolution(4, 8)

    @override
    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = {"shallow": self.shallow(x)}
        if "deep" in layers:
            features["deep"] = self.deep(features["shallow"])
        return {layer: features[layer] for layer in layers}


class LabelsOnly(ImageSet):
    """Labels that can be read, where there are any, and images that must not be: what ``Evaluator.check`` gets."""

    def __init__(self, image: ImageSpec, num_images: int, *, labeled: bool = True) -> None:
        self.image = image
        self.labels = torch.arange(num_images) % len(CLASSES) if labeled else None
        self.classes = CLASSES if labeled else ()
        self.fingerprint = "labels only"
        self._num_images = num_images

    def __len__(self) -> int:
        return self._num_images

    def read(self, indices: Sequence[int]) -> Tensor:
        """Refuse."""
        raise BrokenPromiseError("check must read labels only, and read images")


def build_seeded(build: Build, image: ImageSpec, *, seed: int = 0) -> Backbone:
    """A backbone with random weights of its own."""
    with global_seed(seed):
        return build(image)


def random_images(image: ImageSpec, num_images: int, *, seed: int = 0) -> Tensor:
    """(num_images, C, H, W) uint8 noise."""
    shape = (num_images, image.num_chs, image.height, image.width)
    return torch.randint(0, 256, shape, generator=make_generator(seed), dtype=torch.uint8)


def image_set(image: ImageSpec, num_images: int, *, seed: int = 0) -> ArraySet:
    """Noise without labels."""
    return ArraySet(random_images(image, num_images, seed=seed), image)


def labeled_set(image: ImageSpec, num_images: int, *, seed: int = 0) -> ArraySet:
    """Noise of three classes in turn, one brighter than the other."""
    labels = torch.arange(num_images) % len(CLASSES)
    pixels = random_images(image, num_images, seed=seed) // 2 + 60 * labels.to(torch.uint8)[:, None, None, None]
    return ArraySet(pixels, image, labels=labels, classes=CLASSES)


def cpu_context(stage: str, folder: Path | None = None, *, stop_after: float = float("inf")) -> RunContext:
    """Where and how a check computes: on the CPU, in float32, with no checkpoint before ``stop_after`` optimizer steps."""
    taken: list[Event] = []
    return RunContext(
        stage=stage,
        seed=0,
        device=CPU,
        runtime=Runtime(precision="float32", checkpoint_minutes=1e9),
        folder=folder,
        emit=lambda event: taken.append(event) if isinstance(event, StepEnd) else None,
        should_stop=lambda: len(taken) >= stop_after,
    )


def _convolution(in_chs: int, out_chs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_chs, out_chs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out_chs), nn.ReLU())
