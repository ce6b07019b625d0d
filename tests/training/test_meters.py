import weakref

import pytest
import torch
from torch import Tensor

from sslkit.contract.objective import Mean
from sslkit.training.state import Meters


def test_means_over_uneven_batches_are_exact():
    values = [torch.rand(size, generator=torch.Generator().manual_seed(size)) for size in (8, 8, 3)]
    meters = Meters()
    for batch in values:
        meters.add({"top1": Mean.of(batch)})
    everything = torch.cat(values).double()
    assert abs(meters.read()["top1"] - float(everything.mean())) < 1e-7
    assert abs(meters.read()["top1"] - sum(float(batch.mean()) for batch in values) / 3) > 1e-4  # which a mean of means would give


@pytest.mark.parametrize("count", [2**24, torch.tensor(2.0**24)], ids=["number", "tensor"])
def test_counts_stay_exact_beyond_what_float32_holds(count: Tensor | float):
    meters = Meters()
    for _ in range(3):
        meters.add({"n": Mean(torch.tensor(2.0**24 + 2), count)})
    meters.add({"n": Mean(torch.tensor(1.0), torch.tensor(1.0))})
    assert meters.read()["n"] == (3 * (2**24 + 2) + 1) / (3 * 2**24 + 1)


def test_integers_stay_exact_beside_losses():
    meters = Meters()
    pixels = 2**25 + 1
    meters.add({"loss": Mean(torch.tensor(0.5), 1), "top1": Mean(torch.tensor(pixels), torch.tensor(pixels))}, [torch.tensor(0.5)])
    meters.add({"loss": Mean(torch.tensor(0.5), 1), "top1": Mean(torch.tensor(0), 1)})
    assert meters.read() == {"loss": 0.5, "top1": pixels / (pixels + 1)}


def test_what_was_never_counted_is_left_out():
    meters = Meters()
    assert meters.read() == {}
    zero = torch.tensor(0.0)
    meters.add({"a": Mean(torch.tensor(1.0), torch.tensor(2.0)), "b": Mean(zero, zero), "c": Mean(zero, 0)})
    assert meters.read() == {"a": 0.5}


def test_names_may_come_and_go():
    meters = Meters()
    meters.add({"a": Mean.of(torch.tensor([1.0, 3.0]))})
    meters.add({"b": Mean.of(torch.tensor([5.0])), "a": Mean(torch.tensor(5.0), torch.tensor(1.0))})
    meters.add({"b": Mean(torch.tensor(1.0, dtype=torch.bfloat16), 1)})
    assert meters.read() == {"a": 3.0, "b": 3.0}
    meters.clear()
    assert meters.read() == {}


def naive_sum(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


@pytest.mark.parametrize("reads", [[], [0], [3, 4], range(20)], ids=str)
def test_when_it_is_read_changes_no_bit(reads: list[int]):
    """Float64 is not associative: 1 is lost beside 1e16, unless it comes first. A checkpoint must not change what is logged."""
    values = [1e16, 1.0, -1e16, 3.0, 1e-8] * 4
    meters = Meters()
    for step, value in enumerate(values):
        meters.add({"a": Mean(torch.tensor(value), 1)})
        if step in reads:
            restored = Meters()
            restored.restore(meters.state())
            meters = restored
    assert meters.read()["a"] == naive_sum([float(torch.tensor(value)) for value in values]) / 20


def test_a_restored_meter_goes_on():
    one, two = Meters(), Meters()
    one.add({"a": Mean.of(torch.tensor([1.0, 2.0]))})
    two.add({"b": Mean.of(torch.tensor([7.0]))})  # forgotten: it is rolled back
    two.restore(one.state())
    for meters in (one, two):
        meters.add({"a": Mean.of(torch.tensor([6.0]))})
    assert one.read() == two.read() == {"a": 3.0}


def test_what_is_watched_is_handed_back_once_in_order():
    meters = Meters()
    meters.add({"a": Mean(torch.tensor(1.0), torch.tensor(4.0)), "b": Mean(torch.tensor(2.0), 1)}, [torch.tensor(5.0), torch.tensor(6.0)])
    meters.add({}, [torch.tensor(float("nan"))])
    meters.add({"a": Mean(torch.tensor(3.0), 4)})
    (first, second, third) = meters.settle()
    assert (first, str(second), third) == ([5.0, 6.0], "[nan]", [])
    assert meters.settle() == []
    assert meters.read() == {"a": 0.5, "b": 2.0}


def test_what_was_added_may_be_overwritten():
    """A CUDA graph writes every step's numbers into the same memory."""
    meters = Meters()
    total = torch.zeros(())
    for value in (1.0, 2.0, 6.0):
        meters.add({"a": Mean(total.fill_(value), 1)}, [total])
    assert meters.settle() == [[1.0], [2.0], [6.0]]
    assert meters.read() == {"a": 3.0}


def test_meters_keep_no_graph():
    meters = Meters()
    weight = torch.ones((), requires_grad=True)
    alive = weakref.ref(weight)
    meters.add({"a": Mean(weight * 2, torch.ones(()))}, [weight * 3])
    del weight
    assert alive() is None
    assert meters.settle() == [[3.0]]


def test_mean_of_any_shape_and_dtype():
    mean = Mean.of(torch.tensor([[True, False], [True, True]]))
    assert (float(mean.total), mean.num) == (3.0, 4)
    assert Mean.of(torch.ones(300, dtype=torch.bfloat16)) == (300.0, 300)
