"""Every family of methods that the contract must hold, in miniature, and a short training run for them all."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sslkit import SGD, AdamW, Augment, Backbone, DataInfo, Objective, PretextTask, TrainingOptions, fit
from sslkit.contract.training import OptimizerFactory
from sslkit.data.loader import Loader
from sslkit.training.fit import FitResult
from sslkit.training.seeds import global_seed
from tests.contract.contexts import make_context
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.byol import BYOL
from tests.contract.miniatures.colorization import Colorization
from tests.contract.miniatures.deepcluster import DeepCluster
from tests.contract.miniatures.dino import DINO
from tests.contract.miniatures.exemplar import Exemplar
from tests.contract.miniatures.gan import GAN
from tests.contract.miniatures.images import tiny_images
from tests.contract.miniatures.jigsaw import Jigsaw
from tests.contract.miniatures.mae import MAE
from tests.contract.miniatures.rotation import Rotation
from tests.contract.miniatures.simclr import SimCLR

CPU = torch.device("cpu")
EPOCHS = 3
DECAYLESS = SGD(lr=0.05, weight_decay=0.0)  # weight decay alone would change a parameter that no gradient reaches


class Family(NamedTuple):
    task: PretextTask
    backbone: type[Backbone] = TinyConv
    optimizer: OptimizerFactory | dict[str, OptimizerFactory] = DECAYLESS


FAMILIES = {
    "rotation": Family(Rotation()),
    "rotation of tokens": Family(Rotation(), TinyTokens),
    "jigsaw": Family(Jigsaw()),
    "colorization": Family(Colorization()),
    "exemplar": Family(Exemplar()),
    "gan": Family(GAN(), optimizer={"discriminator": DECAYLESS, "generator": AdamW(lr=1e-3, weight_decay=0.0)}),
    "simclr": Family(SimCLR()),
    "byol": Family(BYOL()),
    "dino": Family(DINO()),
    "dino of tokens": Family(DINO(), TinyTokens, AdamW(lr=1e-3, weight_decay=0.0)),
    "mae": Family(MAE(), TinyTokens, AdamW(lr=1e-3, weight_decay=0.0)),
    "deepcluster": Family(DeepCluster()),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def build(family: Family, seed: int = 0) -> Objective:
    images = tiny_images(22)
    with global_seed(seed):
        backbone = family.backbone(family.task.image_spec(images.image))
        assert family.task.requires <= backbone.capabilities
        return family.task.build_objective(backbone, DataInfo(images.image, len(images)))


def train(
    objective: Objective, family: Family, *, resident: bool = True, device: torch.device = CPU, measure: bool = True, **context: object
) -> FitResult:
    """Three epochs of three steps: the last batch of an epoch is smaller, and no checkpoint but those asked for."""
    images = tiny_images(22, resident=resident)
    loader = Loader(images, batch_size=8, device=device, options=Augment(crop_padding=2, horizontal_flip=True))
    heldout = Loader(tiny_images(10, seed=1), batch_size=8, device=device) if measure else None
    training = TrainingOptions(epochs=EPOCHS, batch_size=8, optimizer=family.optimizer)
    surroundings = make_context(**{"device": device, "log_every": 2, "channels_last": True, **context})
    return fit(objective, loader, heldout, training, surroundings, evaluate_every=1)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if found[name].dtype != tensor.dtype or not torch.equal(found[name], tensor)]
    assert not different
