"""lightly, as its examples use it: its datasets and transforms, torch's DataLoader, rotations of whole batches, float32."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms as T

from measurement.common import ROTATED, Pictures, augmentation, load_forever, rotations, run_on, with_rotation_labels
from measurement.gate import Gate
from measurement.workload import NUM_CLASSES, NUM_FEATURES, Workload

NAME = "lightly"
_QUERIES = 256
"""Images whose neighbours are looked for at once: a batch, in lightly's classifier."""


def problem() -> str:
    """Why it cannot be measured here; empty where it can."""
    return "" if find_spec(NAME) else "not installed"


def run(workload: Workload, gate: Gate) -> None:
    """See :class:`measurement.worker.Variant`."""
    if workload.job == "knn":
        _vote(workload, gate)
    run_on(_batches, workload, gate)


def _batches(workload: Workload) -> Iterator[tuple[Tensor, Tensor]]:
    multi_view = import_module("lightly.transforms.multi_view_transform")
    transform = multi_view.MultiViewTransform([T.Compose(augmentation(workload, workload.images("train").shape[-1]))])
    dataset = import_module("lightly.data").LightlyDataset.from_torch_dataset(Pictures(workload, None), transform=transform)
    for (images,), labels, _names in load_forever(dataset, workload):  # one view of each
        yield with_rotation_labels(rotations(images)) if workload.job in ROTATED else (images, labels)


def _vote(workload: Workload, gate: Gate) -> None:
    knn_predict = import_module("lightly.utils.benchmarking").knn_predict
    bank, queries = (
        F.normalize(torch.randn(len(workload.images(split)), NUM_FEATURES, device=workload.device)) for split in ("train", "test")
    )
    bank, labels = bank.T.contiguous(), workload.labels(len(bank)).to(workload.device)
    while True:
        for chunk in queries.split(_QUERIES):
            knn_predict(chunk, bank, labels, NUM_CLASSES, knn_k=20, knn_t=0.07)
        gate.step(len(queries))
