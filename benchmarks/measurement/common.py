"""The job as it is commonly written: torchvision transforms image by image, torch's DataLoader, float32, a plain loop."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from measurement.gate import Gate
from measurement.plain import PlainNIN, classifier
from measurement.workload import CROP_PADDING, MEAN, NUM_CLASSES, NUM_FEATURES, STD, Workload
from sslkit.data.loader import usable_cores

Batches = Callable[[Workload], Iterator[tuple[Tensor, Tensor]]]
"""Endless: float images (M, 3, S, S), normalised, and int64 labels (M,), on the CPU. M = 4 * batch_size where a job needs rotations."""

ROTATIONS = 4
ROTATED = ("pretrain", "data_path")
"""The jobs whose images are seen under all rotations."""


def run(workload: Workload, gate: Gate) -> None:
    """See :class:`measurement.worker.Variant`."""
    if workload.job == "knn":
        _vote(workload, gate)
    run_on(_batches, workload, gate)


def run_on(batches: Batches, workload: Workload, gate: Gate) -> None:
    """Do a job with another data path."""
    jobs = {"features": _extract, "data_path": _only_load}
    jobs.get(workload.job, _train)(batches(workload), workload, gate)


class Pictures(Dataset):
    """Images in memory, one PIL image at a time, as torchvision's CIFAR10 hands them out.

    Attributes:
        transform: of a PIL image.
    """

    def __init__(self, workload: Workload, transform: Callable[[Image.Image], Tensor] | None) -> None:
        self._data: np.ndarray = workload.images("train").permute(0, 2, 3, 1).contiguous().numpy()
        self._labels = workload.labels(len(self._data)).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor | Image.Image, int]:
        image = Image.fromarray(self._data[index])
        return image if self.transform is None else self.transform(image), self._labels[index]


def augmentation(workload: Workload, side: int) -> list[Callable]:
    """Transforms of one PIL image: of a training image, or of one whose features are taken."""
    random = [] if workload.job == "features" else [T.RandomCrop(side, padding=CROP_PADDING), T.RandomHorizontalFlip()]
    return [*random, T.ToTensor(), T.Normalize(MEAN, STD)]


def load_forever(dataset: Dataset, workload: Workload) -> Iterator[tuple]:
    """Epoch after epoch, with as many workers as there are cores."""
    loader = DataLoader(
        dataset,
        batch_size=workload.batch_size,
        shuffle=workload.job != "features",
        num_workers=usable_cores(),
        persistent_workers=True,
        pin_memory=workload.device.type == "cuda",
    )
    while True:
        yield from loader


def rotations(images: Tensor) -> Tensor:
    """(..., 3, S, S) -> (..., 4, 3, S, S), turned by 0, 90, 180 and 270 degrees."""
    return torch.stack([torch.rot90(images, quarters, (-2, -1)) for quarters in range(ROTATIONS)], dim=-4)


def with_rotation_labels(images: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4, 3, S, S) -> (4 * N, 3, S, S) and which rotation each shows."""
    return images.flatten(0, 1), torch.arange(ROTATIONS).repeat(len(images))


def _batches(workload: Workload) -> Iterator[tuple[Tensor, Tensor]]:
    rotated = workload.job in ROTATED
    steps = augmentation(workload, workload.images("train").shape[-1])
    if rotated:
        steps.append(T.Lambda(rotations))
    for images, labels in load_forever(Pictures(workload, T.Compose(steps)), workload):
        yield with_rotation_labels(images) if rotated else (images, labels)


def _train(batches: Iterator[tuple[Tensor, Tensor]], workload: Workload, gate: Gate) -> None:
    device = workload.device
    model = classifier(workload, workload.images("train").shape[-1]).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    total = 0.0
    for images, labels in batches:
        x, y = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = torch.stack([F.cross_entropy(logits, y) for logits in model(x)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        gate.step(len(y) // (ROTATIONS if workload.job in ROTATED else 1))


@torch.no_grad()
def _extract(batches: Iterator[tuple[Tensor, Tensor]], workload: Workload, gate: Gate) -> None:
    model = PlainNIN(workload.width).to(workload.device).eval()
    features = []
    for images, _labels in batches:
        maps = model(images.to(workload.device, non_blocking=True), workload.used_layers)
        features.append({layer: values.mean(dim=(-2, -1)).cpu() for layer, values in maps.items()})
        gate.step(len(images))


def _only_load(batches: Iterator[tuple[Tensor, Tensor]], workload: Workload, gate: Gate) -> None:
    for images, _labels in batches:
        images.to(workload.device, non_blocking=True)
        gate.step(len(images) // ROTATIONS)


def _vote(workload: Workload, gate: Gate) -> None:
    """Nearest neighbours from one matrix of all similarities."""
    bank, queries = (torch.randn(len(workload.images(split)), NUM_FEATURES, device=workload.device) for split in ("train", "test"))
    labels = workload.labels(len(bank)).to(workload.device)
    while True:
        similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
        nearest, neighbours = similarity.topk(20, dim=1)
        votes = F.one_hot(labels[neighbours], NUM_CLASSES) * (nearest / 0.07).exp()[:, :, None]
        votes.sum(dim=1).argmax(dim=1)
        gate.step(len(queries))
