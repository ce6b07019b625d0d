import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.images import ImageSpec
from sslkit.data.arrays import Arrays, ArraySet, channel_statistics

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)  # (N, H, W, C)
GRAY = RNG.integers(0, 256, (6, 5, 4), dtype=np.uint8)
SPEC = ImageSpec(5, 4, "gray", (0.5,), (0.25,))


def pixels(images) -> torch.Tensor:
    loaded = Arrays(train_images=images).load("pretrain").pixels
    assert loaded.is_contiguous()
    return loaded


def array_set(images=GRAY, **changes) -> ArraySet:
    return ArraySet(torch.from_numpy(images)[:, None], SPEC, **changes)


@pytest.mark.parametrize(
    "images",
    [
        RGB,
        RGB.transpose(0, 3, 1, 2),
        torch.from_numpy(RGB).permute(0, 3, 1, 2),
        RGB / 255,
        (RGB / 255).astype(np.float32),
        torch.from_numpy(RGB).permute(0, 3, 1, 2).double() / 255,
        np.flip(np.flip(RGB, 2), 2),
        RGB.astype(">f4") / np.float32(255),
    ],
    ids=["channels-last", "channels-first", "tensor", "float64", "float32", "float tensor", "strided", "big-endian"],
)
def test_rgb_images_of_any_form_become_the_same_tensor(images):
    expected = torch.tensor([[[[RGB[n, y, x, c] for x in range(4)] for y in range(5)] for c in range(3)] for n in range(6)])
    assert torch.equal(pixels(images), expected)
    assert Arrays(train_images=images).image()[:3] == (5, 4, "rgb")


@pytest.mark.parametrize(
    "images",
    [GRAY, GRAY[:, None], GRAY[..., None], np.broadcast_to(GRAY, GRAY.shape), torch.from_numpy(GRAY), torch.from_numpy(GRAY / 255)],
    ids=["array", "channels-first", "channels-last", "read-only", "tensor", "float tensor"],
)
def test_gray_images_of_any_form_become_the_same_tensor(images):
    assert torch.equal(pixels(images), torch.from_numpy(GRAY)[:, None])
    assert Arrays(train_images=images).image()[:3] == (5, 4, "gray")


def test_floats_are_rounded():
    assert pixels(np.array([[[0.0, 0.0019, 0.00197, 1.0]]])).flatten().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (RGB.astype(np.float32), "train_images: floats must lie in [0, 1]; found '0 to 255'"),
        (RGB / 255 - 0.5, "train_images: floats must lie in [0, 1]; found '-0.5 to 0.5'"),
        (np.full((1, 2, 2), np.nan), "train_images: floats must lie in [0, 1]; found 'nan to nan'"),
        (RGB.astype(np.int64), "train_images: has a wrong type; found 'torch.int64'; allowed: uint8, or floats in [0, 1]"),
        (RGB > 7, "train_images: has a wrong type; found 'torch.bool'"),
        (np.array([[["a"]]]), "train_images: must be numbers; found '<U1'"),
        (torch.from_numpy(RGB), "train_images: has a wrong shape; found (6, 5, 4, 3); allowed: (N, H, W)"),
        (GRAY[0], "train_images: has a wrong shape; found (5, 4)"),
        (GRAY[:0], "train_images: has a wrong shape; found (0, 5, 4)"),
        (GRAY.tolist(), "train_images: must be a torch tensor or a numpy array; found 'list'"),
    ],
)
def test_other_images_are_refused(images, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        Arrays(train_images=images)


def test_splits():
    data = Arrays(train_images=RGB, train_labels=[0, 1, 2, 0, 1, 2], test_images=RGB[:2], test_labels=torch.tensor([2, 1]))
    train, test, pretrain = data.load("train"), data.load("test"), data.load("pretrain")
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert test.labels.tolist() == [2, 1]
    assert (train.labels.dtype, test.labels.dtype) == (torch.int64, torch.int64)
    assert train.classes == test.classes == ("0", "1", "2")
    assert (pretrain.labels, pretrain.classes) == (None, ())
    assert train.image == test.image == pretrain.image == data.image()
    assert (len(train), len(test), len(pretrain)) == (6, 2, 6)
    assert data.available()


def test_splits_that_do_not_exist_are_none_and_held_out_images_need_no_labels():
    data = Arrays(train_images=GRAY)
    assert (data.load("train"), data.load("test")) == (None, None)
    test = Arrays(train_images=GRAY, test_images=GRAY[:2]).load("test")
    assert (len(test), test.labels) == (2, None)


def test_given_classes_may_exceed_the_labels():
    assert Arrays(train_images=GRAY, train_labels=[0, 0, 0, 0, 0, 1], classes=("a", "b", "c")).load("train").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_labels": [0, 1]}, "train_labels: must be one class number an image; found 'int64 (2,)"),
        ({"train_labels": [0, 1, 2, 3, 4, -1]}, "found 'int64 (6,) from -1'; allowed: integers from 0, (6,)"),
        ({"train_labels": [0.0] * 6}, "train_labels: must be one class number an image; found 'float64 (6,)'"),
        ({"train_labels": ["cat"] * 6}, "train_labels: must be one class number an image; found '<U3 (6,)'"),
        ({"train_labels": [0, 1, 2, 3, 4, 5], "classes": ("a", "b")}, "classes: fewer names than classes; found ('a', 'b')"),
        ({"classes": ("a", "b")}, "classes: there are no labels"),
        ({"test_labels": [1]}, "test_labels: there are no test_images"),
        ({"test_images": GRAY, "test_labels": [0] * 6}, "test_labels: give train_labels and test_labels, or neither"),
        ({"test_images": GRAY, "train_labels": [0] * 6}, "test_labels: give train_labels and test_labels, or neither"),
        (
            {"test_images": RGB},
            "test_images: other size or colour; found (6, 3, 5, 4); allowed: (N, C, H, W) as train_images: (6, 1, 5, 4)",
        ),
        ({"test_images": GRAY[:, 1:]}, "test_images: other size or colour; found (6, 1, 4, 4)"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean: does not fit the images; found (0.5, 0.5, 0.5); allowed: 1 values in [0, 1]"),
        ({"mean": (125.0,)}, "mean: does not fit the images; found (125.0,)"),
        ({"std": (0.0,)}, "std: does not fit the images; found (0.0,); allowed: 1 values in (0, 1]"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        Arrays(train_images=GRAY, **options)


def test_statistics_are_those_of_the_training_images():
    spec = Arrays(train_images=RGB, test_images=np.zeros_like(RGB)).image()
    floats = RGB.astype(np.float64) / 255
    np.testing.assert_allclose(spec.mean, floats.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(spec.std, floats.std((0, 1, 2)), rtol=1e-12)


def test_given_statistics_are_kept():
    data = Arrays(train_images=GRAY, mean=(0.25,))
    assert data.image().mean == (0.25,)
    assert replace(data, std=(0.75,)).image()[3:] == ((0.25,), (0.75,))


def test_constant_images_can_be_normalised():
    assert channel_statistics(torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)) == (pytest.approx((0.2,)), (1 / 255,))


def test_read_takes_images_in_any_order():
    images = array_set()
    assert torch.equal(images.read([4, 0, 4]), torch.from_numpy(GRAY[[4, 0, 4]])[:, None])
    assert images.read([]).shape == (0, 1, 5, 4)


def test_fingerprint_follows_whatever_matters():
    labels = torch.arange(6)
    variants = [
        array_set(),
        array_set(GRAY[::-1].copy()),
        array_set(GRAY[:5]),
        array_set(labels=labels, classes=tuple("abcdef")),
        array_set(labels=labels.flip(0), classes=tuple("abcdef")),
        array_set(labels=labels, classes=tuple("abcdeg")),
        ArraySet(torch.from_numpy(GRAY)[:, None], SPEC._replace(mean=(0.4,))),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert array_set(GRAY.copy()).fingerprint == variants[0].fingerprint
    assert array_set(labels=labels, classes=tuple("abcdef")).without_labels().fingerprint == variants[0].fingerprint


def test_fingerprint_is_computed_once(monkeypatch):
    calls = []
    sha256 = __import__("hashlib").sha256
    monkeypatch.setattr("sslkit.data.arrays.hashlib.sha256", lambda *data: calls.append(1) or sha256(*data))
    images = array_set()
    assert calls == []
    assert images.fingerprint == images.fingerprint
    assert calls == [1]


def test_a_set_can_be_sent_to_another_process():
    images = array_set(labels=torch.arange(6), classes=tuple("abcdef"))
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy.read([1]), images.read([1]))
    assert copy.fingerprint == images.fingerprint


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(2, 3, 5, 4, dtype=torch.uint8), None, "pixels do not fit the image spec; found 'torch.uint8 (2, 3, 5, 4)'"),
        (torch.zeros(2, 1, 5, 4), None, "pixels do not fit the image spec; found 'torch.float32 (2, 1, 5, 4)'"),
        (torch.from_numpy(GRAY)[:, None], torch.arange(5), "there must be one label per image; found '(5,) labels'; allowed: (6,)"),
    ],
)
def test_pixels_must_fit_the_spec_and_labels_the_pixels(pixels, labels, message):
    with pytest.raises(DataError, match=re.escape(message)):
        ArraySet(pixels, SPEC, labels=labels)
