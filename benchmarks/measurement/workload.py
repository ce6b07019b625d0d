"""What a job is to do, the same for every variant of it: images on disk, sizes, layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sslkit import NIN, Arrays, DataError, ImageFolder, ImageSpec, Split
from sslkit.contract.runtime import Runtime
from sslkit.data.cache import OpenedDataset
from sslkit.evaluators.heads import HeadKind

JobName = Literal["pretrain", "linear_probe", "mlp_probe", "conv_probe", "finetune", "features", "knn", "data_path"]

NUM_CLASSES = 10
NUM_FEATURES = 192
"""Of an image whose neighbours are looked for: those of conv2 at full width."""
MEAN = (0.491, 0.482, 0.447)
STD = (0.247, 0.243, 0.262)
CROP_PADDING = 4

HEADS: Mapping[JobName, HeadKind] = {"linear_probe": "linear", "mlp_probe": "mlp", "conv_probe": "conv", "finetune": "conv"}
"""Of the jobs that train a classifier."""

LAYERS: Mapping[JobName, tuple[str, ...]] = {
    "linear_probe": ("conv1", "conv2", "conv3", "conv4"),
    "mlp_probe": ("conv1", "conv2", "conv3", "conv4"),
    "conv_probe": ("conv2",),
    "finetune": ("conv2",),
    "features": ("conv2",),
}
"""As in recipes/rotnet_cifar10.toml."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A job with its sizes.

    Attributes:
        job: its name.
        folder: holds ``train.npy`` and ``test.npy``, (N, 3, S, S) uint8; jobs may write there too.
        batch_size: source images a step.
        width: of the Network in Network, a factor on its channels.
        layers: that heads stand on, or that features are taken from; empty: those of the paper's recipe.
    """

    job: JobName
    folder: Path
    batch_size: int = 128
    width: float = 1.0
    layers: tuple[str, ...] = ()
    device: torch.device = field(default_factory=lambda: Runtime().resolve_device())

    @property
    def used_layers(self) -> tuple[str, ...]:
        """``layers``, or the job's own."""
        return self.layers or LAYERS[self.job]

    def images(self, split: Literal["train", "test"]) -> Tensor:
        """(N, 3, S, S) uint8."""
        return torch.from_numpy(np.load(self.folder / f"{split}.npy"))

    def labels(self, num_images: int) -> Tensor:
        """(num_images,) int64. Speed does not depend on them."""
        return torch.arange(num_images) % NUM_CLASSES

    def data(self) -> Arrays:
        """The images with labels, as sslkit takes them."""
        train, test = self.images("train"), self.images("test")
        return Arrays(
            train_images=train,
            train_labels=self.labels(len(train)),
            test_images=test,
            test_labels=self.labels(len(test)),
            classes=tuple("0123456789"),
            mean=MEAN,
            std=STD,
        )

    def batch(self) -> Tensor:
        """(batch_size, 3, S, S) uint8, the first images, on the device."""
        return self.images("train")[: self.batch_size].to(self.device)

    def network(self, image: ImageSpec) -> NIN:
        """The Network in Network of sslkit, with four blocks, on the CPU."""
        return NIN(image, num_blocks=4, width=self.width)


def write_random_images(folder: Path, *, num_train: int, num_test: int, size: int = 32) -> None:
    """Write images of noise: speed does not depend on what is in an image."""
    generator = np.random.default_rng(0)
    for split, number in (("train", num_train), ("test", num_test)):
        np.save(folder / f"{split}.npy", generator.integers(0, 256, (number, 3, size, size), dtype=np.uint8))


def write_folder_images(folder: Path, root: Path, size: int = 32) -> None:
    """Decode a folder of image files once, for all variants: they are compared on what comes after.

    Raises:
        DataError: there is no such folder, or it has no test images.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    data = OpenedDataset(ImageFolder(root=str(root), image_size=size))
    sources: dict[str, Split] = {"train": "pretrain", "test": "test"}
    for split, source in sources.items():
        images = data.load(source)
        if images is None or images.pixels is None:
            raise DataError(f"{root}: no {split} images that fit into memory", fix="give a folder with train/ and test/")
        np.save(folder / f"{split}.npy", images.pixels.numpy())
