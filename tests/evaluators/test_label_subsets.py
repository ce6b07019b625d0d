import pytest
import torch
from torch import Generator

from sslkit import DataError
from sslkit.evaluators.label_subsets import select_per_class, smallest_class

LABELS = torch.randint(0, 3, (60,), generator=Generator().manual_seed(0))


def test_first_takes_the_first_of_each_class_in_order():
    naive = sorted(index for label in range(3) for index in [i for i, found in enumerate(LABELS.tolist()) if found == label][:5])
    assert select_per_class(LABELS, 5, "first", Generator()).tolist() == naive


def test_random_takes_as_many_of_each_class():
    chosen = select_per_class(LABELS, 5, "random", Generator().manual_seed(0))
    assert LABELS[chosen].bincount().tolist() == [5, 5, 5]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, select_per_class(LABELS, 5, "random", Generator().manual_seed(0)))
    assert not torch.equal(chosen, select_per_class(LABELS, 5, "random", Generator().manual_seed(1)))


def test_random_gives_every_image_a_chance():
    seen = torch.cat([select_per_class(LABELS, 5, "random", Generator().manual_seed(seed)) for seed in range(60)])
    assert len(seen.unique()) == 60


def test_first_draws_nothing():
    generator = Generator().manual_seed(0)
    before = generator.get_state()
    select_per_class(LABELS, 5, "first", generator)
    assert torch.equal(generator.get_state(), before)


def test_the_smallest_class_is_the_most_that_can_be_chosen():
    most = smallest_class(LABELS)
    assert most == int(LABELS.bincount().min())
    assert len(select_per_class(LABELS, most, "random", Generator())) == 3 * most
    label = int(LABELS.bincount().argmin())
    with pytest.raises(DataError, match=f"class {label} has {most} images; found {most + 1}; allowed: at most {most} labels per class"):
        select_per_class(LABELS, most + 1, "first", Generator())


def test_labels_need_not_start_at_zero():
    assert select_per_class(torch.tensor([7, 3, 7, 3]), 1, "first", Generator()).tolist() == [0, 1]
