"""Images of thirteen bands of 16 bits, from the arrays to a probe."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from sslkit import (
    NIN,
    Arrays,
    Augment,
    Backbone,
    BackboneError,
    Batch,
    LinearProbe,
    RunInterruptedError,
    Runtime,
    TimmBackbone,
    TrainingOptions,
    evaluate,
    load_backbone,
    pretrain,
)
from sslkit.data.cache import OpenedDataset
from sslkit.data.loader import Loader
from sslkit.report.pictures.views import make_views
from sslkit.run.artifacts import BACKBONE
from sslkit.testing import check_backbone, check_pretext_task
from sslkit.training.seeds import global_seed
from sslkit_rotnet import RotNet
from tests.observers import stop_after

NUM_BANDS, WINDOW = 13, (100.0, 9_000.0)
RUNTIME = Runtime(device="cpu", precision="float32", log_every=1, num_workers=0)
TRAINING = TrainingOptions(epochs=1, batch_size=8, augment=Augment(crop_padding=1, horizontal_flip=True))
PROBE = {"epochs": 1, "batch_size": 8}


def satellite(num: int, seed: int) -> Tensor:
    return torch.randint(0, 10_000, (num, NUM_BANDS, 16, 16), generator=torch.Generator().manual_seed(seed)).to(torch.uint16)


def make_data(dtype: torch.dtype = torch.uint16) -> Arrays:
    labels = [index % 2 for index in range(16)]
    return Arrays(
        train_images=satellite(16, 0).to(dtype),
        train_labels=labels,
        test_images=satellite(8, 1).to(dtype),
        test_labels=labels[:8],
        window=WINDOW,
        display=(3, 2, 1),
    )


NETWORKS = {"nin": partial(NIN, num_blocks=3, width=0.05), "timm": partial(TimmBackbone, model="test_resnet")}


def build(name: str) -> Backbone:
    with global_seed(0):
        return NETWORKS[name](make_data().image())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pretraining_and_a_probe_that_are_interrupted_and_resumed_end_with_the_same_bits(name, tmp_path):
    data, backbone = make_data(), build(name)
    assert data.image() == (16, 16, None, data.image().mean, data.image().std)
    layers = (backbone.layer_names[-1],)
    probe = LinearProbe(layers=layers, **PROBE)
    figures, weights = [], []
    for folder, stops in ((tmp_path / "whole", False), (tmp_path / "parts", True)):
        run = partial(pretrain, RotNet(), backbone, data, training=TRAINING, runtime=RUNTIME, output=folder / "pretrain")
        if stops:
            with pytest.raises(RunInterruptedError):
                run(**stop_after(1))
        pretrained = run()
        loaded = load_backbone(folder / "pretrain")
        measure = partial(evaluate, probe, loaded, data, runtime=RUNTIME, output=folder / "probe")
        if stops:
            with pytest.raises(RunInterruptedError):
                measure(**stop_after(1))
        figures.append((pretrained.metrics, measure().metrics))
        weights.append((folder / "pretrain" / BACKBONE).read_bytes())
    assert figures[0] == figures[1]
    assert weights[0] == weights[1]


def test_pixels_keep_their_values_until_the_device_and_are_scaled_there():
    stored = satellite(16, 0)
    expected = ((stored.double() - WINDOW[0]) / (WINDOW[1] - WINDOW[0])).clamp(0, 1).float()
    for dtype in (torch.uint16, torch.float32):
        opened = OpenedDataset(make_data(dtype))
        images = opened.load("train")
        assert images is not None
        assert images.stored.pixels is not None
        assert images.stored.pixels.dtype == dtype
        batch = next(Loader(images, batch_size=16, device=torch.device("cpu")).in_order())
        torch.testing.assert_close(batch.images, expected, rtol=0, atol=1e-6)
        assert torch.equal(images.read(range(16)), batch.images)
        assert images.pixels is None
        torch.testing.assert_close(torch.tensor(images.image.mean), expected.mean(dim=(0, 2, 3)))


def test_8_bit_images_with_a_window_are_consistent():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    with_window, plain = Arrays(train_images=pixels, window=(0, 255)), Arrays(train_images=pixels)
    batches = [next(Loader(data.load("pretrain"), batch_size=1, device=torch.device("cpu")).in_order()) for data in (with_window, plain)]  # pyright: ignore[reportArgumentType] - there is one
    assert batches[0].images.dtype == torch.float32
    backbone = NIN(plain.image(), width=0.05, num_blocks=3)
    assert plain.image().mean == pytest.approx(with_window.image().mean, abs=1e-12)
    torch.testing.assert_close(backbone.prepare(batches[0].images), backbone.prepare(batches[1].images))
    narrow = next(
        Loader(Arrays(train_images=pixels, window=(10, 30)).load("pretrain"), batch_size=1, device=torch.device("cpu")).in_order()
    )  # pyright: ignore[reportArgumentType]
    assert narrow.images.flatten()[[0, 10, 20, 30, 255]].tolist() == [0, 0, 0.5, 1, 1]


def test_the_kit_takes_bands():
    spec = make_data().image()
    check_backbone(partial(NIN, num_blocks=3, width=0.05), image=spec)
    check_pretext_task(RotNet(), image=spec)


def test_a_network_for_other_bands_is_refused_before_anything_is_computed():
    rgb = Arrays(train_images=torch.zeros(4, 3, 16, 16, dtype=torch.uint8), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(BackboneError, match="the backbone is built for rgb images; found 'images of 13 bands'"):
        pretrain(RotNet(), NIN(rgb.image(), width=0.05), make_data(), training=TRAINING, runtime=RUNTIME)
    probe = LinearProbe(layers=("conv2",), **PROBE)
    with pytest.raises(BackboneError, match="the backbone is built for rgb images; found 'images of 13 bands'"):
        evaluate(probe, NIN(rgb.image(), width=0.05), make_data(), runtime=RUNTIME)
    twelve = replace(make_data(), train_images=satellite(16, 0)[:, :12], test_images=satellite(8, 0)[:, :12])
    with pytest.raises(BackboneError, match="the backbone is built for images of 13 bands; found 'images of 12 bands'"):
        evaluate(probe, build("nin"), twelve, runtime=RUNTIME)


def test_the_bands_that_are_chosen_are_drawn():
    images = OpenedDataset(make_data()).load("pretrain")
    assert images is not None
    views = make_views(RotNet(), build("nin"), images, num_images=2, seed=0)
    assert torch.equal(views.images, images.read([0, 15])[:, [3, 2, 1]])
    assert views.views[0].images.shape == (8, 3, 16, 16)
    objective = RotNet().build_objective(build("nin"), None)  # pyright: ignore[reportArgumentType] - not looked at
    made = objective.make_views(Batch(images.read([0, 15]), torch.tensor([0, 15])), torch.Generator(), train=True)["images"]
    assert torch.equal(views.views[0].images[0], made[0, [3, 2, 1]])
