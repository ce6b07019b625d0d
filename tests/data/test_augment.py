import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sslkit import Augment, OptionError
from sslkit.data.augment import Draws, apply_draws, augment, draw


def noise(num_images: int, num_chs: int = 3, height: int = 8, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_images, num_chs, height, width), generator=generator, dtype=torch.uint8)


def naive(images: Tensor, options: Augment, draws: Draws) -> Tensor:
    """One image at a time, with PIL."""
    height, width = images.shape[-2:]
    offsets = torch.zeros(2, len(images), dtype=torch.int64) if draws.offsets is None else draws.offsets
    flips = [False] * len(images) if draws.flip is None else draws.flip.tolist()
    done = []
    for image, (top, left), flip in zip(images, offsets.T.tolist(), flips, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        padded = ImageOps.expand(picture, options.crop_padding, fill=0)
        picture = padded.crop((left, top, left + width, top + height))
        if flip:
            picture = ImageOps.mirror(picture)
        done.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    return torch.stack(done)


@pytest.mark.parametrize("crop_padding", [0, 1, 4])
@pytest.mark.parametrize("horizontal_flip", [False, True])
def test_equals_a_loop_over_images_bit_for_bit(crop_padding: int, horizontal_flip: bool):
    images = noise(64)
    options = Augment(crop_padding=crop_padding, horizontal_flip=horizontal_flip)
    draws = draw(len(images), options, torch.Generator().manual_seed(1))
    expected = naive(images, options, draws)
    assert torch.equal(apply_draws(images, options, draws), expected)
    assert torch.equal(augment(images, options, torch.Generator().manual_seed(1)), expected)


def test_every_corner_of_the_padded_image_can_be_drawn():
    images = noise(4, height=5, width=7)
    options = Augment(crop_padding=2, horizontal_flip=True)
    draws = Draws(torch.tensor([[0, 0, 4, 4], [0, 4, 0, 4]]), torch.tensor([False, True, False, True]))
    assert torch.equal(apply_draws(images, options, draws), naive(images, options, draws))


def test_the_batch_itself_is_left_alone():
    images = noise(16)
    before = images.clone()
    augmented = augment(images, Augment(crop_padding=2, horizontal_flip=True), torch.Generator())
    assert torch.equal(images, before)
    assert augmented.dtype == torch.uint8
    assert augmented.shape == images.shape


def test_gray_images_and_batches_of_one():
    assert augment(noise(1, num_chs=1), Augment(crop_padding=3), torch.Generator()).shape == (1, 1, 8, 6)


def test_draws_cover_their_range_evenly():
    num = 9000
    draws = draw(num, Augment(crop_padding=4, horizontal_flip=True), torch.Generator().manual_seed(0))
    for offsets in draws.offsets:
        counts = offsets.bincount()
        assert len(counts) == 9
        assert (counts - num / 9).abs().max() < 5 * (num * 1 / 9 * 8 / 9) ** 0.5
    assert abs(int(draws.flip.sum()) - num / 2) < 5 * (num / 4) ** 0.5
    table = torch.cat([draws.offsets, draws.flip[None]]).double().corrcoef()
    assert (table - torch.eye(3)).abs().max() < 5 / num**0.5


@pytest.mark.parametrize("crop_padding", [0, 2])
@pytest.mark.parametrize("horizontal_flip", [False, True])
def test_what_is_not_asked_for_is_not_drawn(crop_padding: int, horizontal_flip: bool):
    ours, naive = (torch.Generator().manual_seed(0) for _ in range(2))
    draws = draw(10, Augment(crop_padding=crop_padding, horizontal_flip=horizontal_flip), ours)
    offsets = torch.randint(0, 5, (2, 10), generator=naive) if crop_padding else None
    flip = torch.rand(10, generator=naive) < 0.5 if horizontal_flip else None
    for found, expected in ((draws.offsets, offsets), (draws.flip, flip)):
        assert (found is None) == (expected is None)
        assert found is None or expected is None or torch.equal(found, expected)
    assert torch.equal(ours.get_state(), naive.get_state())


def test_padding_cannot_be_negative():
    with pytest.raises(OptionError, match=r"^crop_padding: must not be negative; found -1; allowed: 0 or more pixels"):
        Augment(crop_padding=-1)
