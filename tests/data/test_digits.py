from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from sslkit.contract.errors import OptionError
from sslkit.data import digits
from sslkit.data.arrays import channel_statistics
from sslkit.data.digits import Digits
from sslkit.storage.tensor_file import load_tensors

DIGITS: Any = load_digits()


def naive_split() -> tuple[list[int], list[int]]:
    seen, train, test = [0] * 10, [], []
    for index, label in enumerate(DIGITS.target):
        seen[label] += 1
        (test if seen[label] % 5 == 0 else train).append(index)
    return train, test


def test_split_takes_every_fifth_image_of_each_class():
    for split, indices in zip(("train", "test"), naive_split(), strict=True):
        images = Digits().load(split)
        assert images.labels.tolist() == DIGITS.target[indices].tolist()
        assert np.array_equal(images.pixels[:, 0].numpy(), np.round(DIGITS.images[indices] * 255 / 16))
        assert images.classes == tuple("0123456789")


def test_pretrain_is_train_without_labels():
    pretrain = Digits().load("pretrain")
    assert (pretrain.labels, pretrain.classes) == (None, ())
    assert torch.equal(pretrain.pixels, Digits().load("train").pixels)


def test_statistics_are_those_of_the_training_images():
    images = Digits().load("train")
    mean, std = channel_statistics(images.pixels)
    assert images.image == Digits().image()
    assert images.image == (8, 8, "gray", pytest.approx(mean, abs=5e-5), pytest.approx(std, abs=5e-5))


def test_larger_digits_are_interpolated():
    images = Digits(image_size=19).load("test")
    assert images.image[:2] == images.pixels.shape[2:] == (19, 19)
    for row, index in list(enumerate(naive_split()[1]))[::50]:
        exact = F.interpolate(torch.tensor(DIGITS.images[index])[None, None], (19, 19), mode="bilinear") * 255 / 16
        assert (images.pixels[row].double() - exact[0]).abs().max() < 0.51


def test_smaller_digits_are_refused():
    with pytest.raises(OptionError, match="image_size: the digits are not made smaller; found 7; allowed: 8 pixels or more"):
        Digits(image_size=7)


def test_digits_are_those_of_scikit_learn():
    tensors, _ = load_tensors(Path(digits.__file__).with_suffix(".safetensors"))
    assert np.array_equal(tensors["images"].numpy(), DIGITS.images)
    assert np.array_equal(tensors["labels"].numpy(), DIGITS.target)


def test_digits_need_no_download():
    assert Digits().available()
