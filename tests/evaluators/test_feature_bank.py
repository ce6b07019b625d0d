from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from sslkit import Augment, RunInterruptedError
from sslkit.data.augment import Draws, draw
from sslkit.data.loader import Loader
from sslkit.evaluators.feature_cache import FeatureBank, all_draws, copy_numbers, num_copies, plain_copy
from tests.contract.miniatures.images import TinyImages
from tests.evaluators.labeled import CPU, context

AUGMENTS = [Augment(), Augment(crop_padding=1), Augment(horizontal_flip=True), Augment(crop_padding=2, horizontal_flip=True)]
EVERY_AUGMENT = pytest.mark.parametrize("augment", AUGMENTS, ids=str)


def noise(number: int = 7, *, resident: bool = True) -> TinyImages:
    """Images of which no two copies are alike."""
    pixels = torch.randint(0, 256, (number, 3, 6, 5), generator=Generator().manual_seed(0), dtype=torch.uint8)
    return TinyImages(pixels, resident=resident)


class Pixels:
    """The pixels themselves as features, and their mean as another layer. Counts what it is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self.sizes.append(len(images))
        return {"pixels": images.clone(), "mean": images.float().mean(dim=(1, 2, 3)).unsqueeze(1)}


def build(images: TinyImages, augment: Augment, *, members: list[int] | None = None, **options: Any) -> tuple[FeatureBank, Pixels]:
    pixels = Pixels()
    chosen = torch.tensor(list(range(len(images))) if members is None else members)
    return FeatureBank(pixels, images, chosen, augment, batch_size=4, context=context(**options)), pixels


# ------------------------------------------------------------------------------------------------------------------ copies


def choices(draws: Draws, number: int) -> list[tuple[int | None, int | None, bool]]:
    """Top, left and flip of each image."""
    offsets = [(None, None)] * number if draws.offsets is None else draws.offsets.T.tolist()
    flips = [False] * number if draws.flip is None else draws.flip.tolist()
    return [(top, left, flip) for (top, left), flip in zip(offsets, flips, strict=True)]


def numbers_of(draws: Draws, augment: Augment, number: int) -> list[int]:
    return (torch.zeros(number, dtype=torch.int64) + copy_numbers(draws, augment)).tolist()


@pytest.mark.parametrize(("augment", "number"), list(zip(AUGMENTS, [1, 9, 2, 50], strict=True)))
def test_every_copy_is_drawn_by_one_set_of_draws(augment: Augment, number: int):
    draws = all_draws(augment, CPU)
    assert num_copies(augment) == number == len(set(choices(draws, number)))
    assert numbers_of(draws, augment, number) == list(range(number))


@EVERY_AUGMENT
def test_one_copy_is_the_image_as_it_is(augment: Augment):
    middle = augment.crop_padding if augment.crop_padding else None
    assert choices(all_draws(augment, CPU), num_copies(augment))[plain_copy(augment)] == (middle, middle, False)


@EVERY_AUGMENT
def test_what_the_loader_draws_is_one_of_the_copies(augment: Augment):
    draws = draw(500, augment, Generator().manual_seed(0))
    numbers = numbers_of(draws, augment, 500)
    assert set(numbers) == set(range(num_copies(augment)))
    copies = choices(all_draws(augment, CPU), num_copies(augment))
    assert [copies[number] for number in numbers] == choices(draws, 500)


# ----------------------------------------------------------------------------------------------------------------- batches


@EVERY_AUGMENT
@pytest.mark.parametrize("resident", [True, False], ids=["in memory", "on disk"])
@pytest.mark.parametrize("start", [0, 2, 3])  # of three batches: nothing is left after the last
@pytest.mark.parametrize("sizes", [None, (4, 5, 1)])
def test_batches_show_what_the_loader_would_show(augment: Augment, resident: bool, start: int, sizes: tuple[int, ...] | None):
    images = noise(resident=resident)
    members, order = [0, 2, 3, 6], torch.tensor([3, 0, 0, 6, 2, 2, 3, 6, 0, 3])
    bank, pixels = build(images, augment, members=members)
    loader = Loader(images, batch_size=4, device=CPU, options=augment)
    generators = [Generator().manual_seed(5) for _ in range(2)]
    expected = list(loader.batches(order, start=start, sizes=sizes, generator=generators[0]))
    found = list(bank.batches(order, start=start, sizes=sizes, generator=generators[1]))
    assert [len(batch.indices) for batch in found] == [len(batch.indices) for batch in expected]
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    for one, other in zip(found, expected, strict=True):
        assert one.images.shape == (len(one.indices), 0, 6, 5)
        assert torch.equal(bank.images_of(one.indices), other.indices)
        assert torch.equal(bank.features(one.indices)["pixels"], other.images)
    assert bank.num_rows == 4 * num_copies(augment)
    assert sum(pixels.sizes) == (bank.num_rows if found else 0)
    assert (bank.num_images, bank.batch_size, bank.device) == (7, 4, CPU)


@EVERY_AUGMENT
def test_in_order_and_without_a_generator_images_are_as_they_are(augment: Augment):
    images = noise()
    bank, _ = build(images, augment, members=[1, 2, 3, 5, 6])
    for batches in (bank.in_order(), bank.batches(torch.tensor([1, 2, 3, 5, 6]))):
        rows = [batch.indices for batch in batches]
        assert [len(part) for part in rows] == [4, 1]
        assert bank.images_of(torch.cat(rows)).tolist() == [1, 2, 3, 5, 6]
        assert torch.equal(bank.features(torch.cat(rows))["pixels"], images.read([1, 2, 3, 5, 6]))


# -------------------------------------------------------------------------------------------------------------------- rows


@EVERY_AUGMENT
def test_every_row_is_computed_once_in_batches_that_are_not_too_large(augment: Augment):
    bank, pixels = build(noise(), augment)
    list(bank.batches(torch.arange(7), generator=Generator()))
    assert pixels.sizes == []  # a fit that was finished before it was resumed asks for none
    for _ in range(2):
        bank.features(torch.tensor([0]))
    assert sum(pixels.sizes) == 7 * num_copies(augment)
    assert max(pixels.sizes) <= 4
    assert len(pixels.sizes) <= 1.5 * sum(pixels.sizes) / 4 + 1


def test_without_augmentation_batches_are_those_of_the_loader():
    bank, pixels = build(noise(), Augment())
    bank.features(torch.tensor([0]))
    assert pixels.sizes == [4, 3]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_features_keep_their_type_and_their_layout_in_memory(memory_format: torch.memory_format):
    def features(images: Tensor) -> dict[str, Tensor]:
        return {"map": images.bfloat16().contiguous(memory_format=memory_format)}

    bank = FeatureBank(features, noise(), torch.arange(7), Augment(), batch_size=4, context=context())
    found = bank.features(torch.tensor([6, 0, 6]))["map"]
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, noise().read([6, 0, 6]).bfloat16())


def test_computing_can_be_stopped_between_batches():
    bank, pixels = build(noise(), Augment(), should_stop=lambda: True)
    with pytest.raises(RunInterruptedError, match=r"^stopped in stage 'probe' while computing features$"):
        bank.features(torch.tensor([0]))
    assert pixels.sizes == [4]
