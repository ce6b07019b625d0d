"""Two SimCLR views of each image of a batch, made by sslkit, by torchvision and lightly per image in workers, and by kornia.

Chen et al. 2020 (arXiv:2002.05709): crop, flip, jitter, grey and, but for images as small as CIFAR's, blur with a kernel of a tenth of the
side. Colours change half as much for small images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from measurement.gate import Gate
from sslkit import views
from sslkit.contract.runtime import Runtime
from sslkit.training.device import configured
from sslkit.views.transform import ViewFunction, compose

SMALL = 64
"""Smaller images are not blurred, and their colours change half as much."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What to make.

    Attributes:
        size: of a view, in pixels.
        canvas: of the decoded images.
        batch_size: images, each of which is seen twice.
        num_images: random ones, decoded and in memory: an epoch.
        cores: workers of those who work per image, threads of sslkit and kornia on a CPU.
        device: of sslkit and kornia.
    """

    size: int
    canvas: int
    batch_size: int
    num_images: int
    cores: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def jitter(self) -> dict[str, float]:
        """How much colours change."""
        strength = 0.5 if self.size < SMALL else 1.0
        return {"brightness": 0.8 * strength, "contrast": 0.8 * strength, "saturation": 0.8 * strength, "hue": 0.2 * strength}

    @property
    def kernel_size(self) -> int:
        """Of the blur; 0 for none."""
        return 0 if self.size < SMALL else self.size // 20 * 2 + 1

    def images(self) -> Tensor:
        """(num_images, 3, canvas, canvas) uint8."""
        shape = (self.num_images, 3, self.canvas, self.canvas)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=Generator().manual_seed(0))


ENTRIES: Mapping[str, str] = {
    "sslkit": "measurement.simclr_views:run_sslkit",
    "torchvision, PIL": "measurement.simclr_views:run_pictures",
    "torchvision, tensors": "measurement.simclr_views:run_tensors",
    "lightly": "measurement.simclr_views:run_lightly",
    "kornia": "measurement.simclr_views:run_kornia",
}
"""How to make them: see the functions."""

PEERS = ("lightly", "kornia")


def missing(name: str) -> str:
    """Why a peer cannot be measured here, and how to install it; empty where it can."""
    return "" if name not in PEERS or find_spec(name) else f"not installed: pip install {name}"


def sequence(work: Views) -> list[tuple[ViewFunction[...], Mapping[str, Any]]]:
    """The functions of sslkit with their options."""
    blur = [(views.gaussian_blur, {"kernel_size": work.kernel_size, "sigma": (0.1, 2.0), "probability": 0.5})]
    return [
        (views.random_resized_crop, {"size": work.size}),
        (views.horizontal_flip, {}),
        (views.color_jitter, {**work.jitter, "probability": 0.8}),
        (views.grayscale, {"probability": 0.2}),
        *(blur if work.kernel_size else []),
    ]


def run_sslkit(work: Views, gate: Gate) -> None:
    """Whole batches; see :class:`measurement.worker.Variant`."""
    with configured(Runtime(), work.device):
        steps, generator = sequence(work), Generator(work.device).manual_seed(0)
        for images in batches(work):
            for _ in range(2):
                compose(steps, images, generator)
            gate.step(len(images))


def run_kornia(work: Views, gate: Gate) -> None:
    """Whole batches of floats."""
    kornia = import_module("kornia.augmentation")
    size, jitter = (work.size, work.size), tuple(work.jitter.values())
    blur = [kornia.RandomGaussianBlur((work.kernel_size, work.kernel_size), (0.1, 2.0), p=0.5)] if work.kernel_size else []
    augment = kornia.AugmentationSequential(
        kornia.RandomResizedCrop(size, scale=(0.08, 1.0)),
        kornia.RandomHorizontalFlip(),
        kornia.ColorJitter(*jitter, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        *blur,
    )
    with configured(Runtime(), work.device):
        for images in batches(work):
            for _ in range(2):
                augment(images.float() / 255)
            gate.step(len(images))


def run_tensors(work: Views, gate: Gate) -> None:
    """Transforms of torchvision (v2), of one uint8 tensor at a time."""
    _per_image(work, gate, list(work.images()), _torchvision(work))


def run_pictures(work: Views, gate: Gate) -> None:
    """Transforms of torchvision (v2), of one picture of PIL at a time, which gives a uint8 tensor."""
    _per_image(work, gate, _pictures(work), v2.Compose([_torchvision(work), v2.PILToTensor()]))


def run_lightly(work: Views, gate: Gate) -> None:
    """The SimCLRTransform of lightly, of one picture at a time, which blurs with PIL and gives normalised floats."""
    strength = 0.5 if work.size < SMALL else 1.0
    transform = import_module("lightly.transforms.simclr_transform").SimCLRTransform
    pair = transform(input_size=work.size, cj_strength=strength, gaussian_blur=0.5 if work.kernel_size else 0.0)
    _per_image(work, gate, _pictures(work), pair, twice=False)


def _torchvision(work: Views) -> v2.Compose:
    blur = [v2.RandomApply([v2.GaussianBlur(work.kernel_size, (0.1, 2.0))], 0.5)] if work.kernel_size else []
    jitter = v2.RandomApply([v2.ColorJitter(**work.jitter)], 0.8)
    return v2.Compose([v2.RandomResizedCrop(work.size), v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), *blur])


def _pictures(work: Views) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in work.images()]


def batches(work: Views) -> Iterator[Tensor]:
    """Endlessly, on the device, as sslkit keeps small data, shuffled."""
    torch.set_num_threads(work.cores)
    images = work.images().to(work.device)
    while True:
        for rows in torch.randperm(len(images), device=work.device).split(work.batch_size):
            yield images[rows]


class _Pairs(Dataset[Any]):
    """Two views of each image; ``twice``: by a transform that makes one."""

    def __init__(self, images: list[Any], transform: Callable[[Any], Any], *, twice: bool) -> None:
        self._images = images
        self._transform = transform
        self._twice = twice

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        image = self._images[index]
        return [self._transform(image), self._transform(image)] if self._twice else self._transform(image)


def _per_image(work: Views, gate: Gate, images: list[Any], transform: Callable[[Any], Any], *, twice: bool = True) -> None:
    pairs = _Pairs(images, transform, twice=twice)
    loader = DataLoader(pairs, work.batch_size, shuffle=True, num_workers=work.cores, persistent_workers=True)
    while True:
        # A whole epoch is a step of the gate: its queue is empty at the end, and holds nothing that was made in another variant's turn.
        gate.step(sum(len(first) for first, _second in loader))
