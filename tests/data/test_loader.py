from itertools import islice

import pytest
import torch
from torch import Generator

import sslkit.data.loader as module
from sslkit import Augment, Batch
from sslkit.data.loader import Loader
from tests.contract.miniatures.images import tiny_images

CPU = torch.device("cpu")
OPTIONS = Augment(crop_padding=2, horizontal_flip=True)
EITHER = pytest.mark.parametrize("resident", [True, False], ids=["resident", "decoded"])
ORDER = torch.randperm(11, generator=Generator().manual_seed(0))


def loader(*, resident: bool, batch_size: int = 4) -> Loader:
    return Loader(tiny_images(11, resident=resident), batch_size=batch_size, device=CPU, options=OPTIONS)


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert torch.equal(one.indices, two.indices)
        assert torch.equal(one.images, two.images)


@EITHER
def test_batches_keep_the_order_and_the_last_is_smaller(resident: bool):
    batches = list(loader(resident=resident).batches(ORDER))
    assert [len(batch.indices) for batch in batches] == [4, 4, 3]
    assert torch.equal(torch.cat([batch.indices for batch in batches]), ORDER)
    assert torch.equal(torch.cat([batch.images for batch in batches]), tiny_images(11).read(ORDER.tolist()))
    assert {(batch.images.dtype, batch.indices.dtype) for batch in batches} == {(torch.uint8, torch.int64)}


def test_decoded_batches_equal_resident_ones():
    epochs = [list(loader(resident=resident).batches(ORDER, generator=Generator().manual_seed(1))) for resident in (True, False)]
    assert_same(*epochs)
    assert not torch.equal(epochs[0][0].images, tiny_images(11).read(ORDER[:4].tolist()))


@EITHER
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_an_epoch_goes_on_where_it_was_interrupted(resident: bool, start: int):
    whole, parts = Generator().manual_seed(1), Generator().manual_seed(1)
    source = loader(resident=resident)
    first = list(islice(source.batches(ORDER, generator=parts), start))
    rest = list(source.batches(ORDER, start=start, generator=parts))
    assert_same(first + rest, list(source.batches(ORDER, generator=whole)))


@EITHER
@pytest.mark.parametrize("start", [0, 1, 3])
def test_batches_may_have_sizes_of_their_own(resident: bool, start: int):
    batches = list(loader(resident=resident).batches(ORDER, start=start, sizes=(4, 5, 2)))
    assert [batch.indices.tolist() for batch in batches] == [part.tolist() for part in ORDER.split([4, 5, 2])[start:]]
    assert all(torch.equal(batch.images, tiny_images(11).read(batch.indices.tolist())) for batch in batches)


@EITHER
def test_the_global_random_state_is_left_alone(resident: bool):
    """Else a resumed epoch, which makes its workers anew, would go on with other dropout than an uninterrupted one."""
    before = torch.get_rng_state()
    list(loader(resident=resident).batches(ORDER, generator=Generator()))
    assert torch.equal(torch.get_rng_state(), before)


@EITHER
def test_in_order_is_every_image_once_as_it_is(resident: bool):
    batches = list(loader(resident=resident).in_order())
    assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(11))
    assert torch.equal(torch.cat([batch.images for batch in batches]), tiny_images(11).read(range(11)))


def test_images_may_repeat_and_be_left_out():
    order = torch.tensor([3, 3, 0, 3, 10])
    batches = list(loader(resident=True).batches(order))
    assert [batch.indices.tolist() for batch in batches] == [[3, 3, 0, 3], [10]]
    assert torch.equal(batches[1].images[0], tiny_images(11).read([10])[0])


def test_it_says_how_many_images_there_are():
    assert loader(resident=False).num_images == 11
    assert loader(resident=True).batch_size == 4


GIB = 2**30


@pytest.mark.parametrize(
    ("num_bytes", "free", "reserved", "allocated", "expected"),
    [
        (1 * GIB, 4 * GIB, 0, 0, True),
        (1 * GIB + 1, 4 * GIB, 0, 0, False),
        (2 * GIB, 1 * GIB, 8 * GIB, 1 * GIB, True),  # torch keeps what an earlier stage has left
        (2 * GIB, 1 * GIB, 8 * GIB, 3 * GIB, False),
    ],
)
def test_images_leave_a_gpu_most_of_its_free_memory(
    num_bytes: int, free: int, reserved: int, allocated: int, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {"mem_get_info": (free, 80 * GIB), "memory_reserved": reserved, "memory_allocated": allocated}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _device, value=value: value)
    pixels = torch.empty(num_bytes, dtype=torch.uint8, device="meta")
    assert module._fits(pixels, torch.device("cuda")) == expected
    assert module._fits(pixels, CPU)


def test_images_that_do_not_fit_are_sent_as_they_are_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_fits", lambda *_: False)
    sent = loader(resident=True)
    monkeypatch.undo()
    epochs = [list(source.batches(ORDER, generator=Generator().manual_seed(1))) for source in (sent, loader(resident=True))]
    assert_same(*epochs)


def test_copies_are_waited_for_where_memory_is_not_pinned(monkeypatch: pytest.MonkeyPatch):
    """Else it may be used again before it was copied."""
    sent: list[bool] = []
    to = torch.Tensor.to

    def record(tensor: torch.Tensor, *arguments: object, non_blocking: bool = False) -> torch.Tensor:
        sent.append(non_blocking)
        return to(tensor, *arguments)

    monkeypatch.setattr(torch.Tensor, "to", record)
    list(loader(resident=False).in_order())
    assert sent == [False] * 6
