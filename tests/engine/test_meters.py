import torch

from sslkit.engine.meters import Meters
from sslkit.interfaces import Mean

CPU = torch.device("cpu")


def test_means_over_uneven_batches_are_exact():
    values = [torch.rand(size, generator=torch.Generator().manual_seed(size)) for size in (8, 8, 3)]
    meters = Meters()
    for batch in values:
        meters.add({"top1": Mean.of(batch)})
    everything = torch.cat(values).double()
    assert abs(meters.read()["top1"] - float(everything.mean())) < 1e-7
    assert abs(meters.read()["top1"] - sum(float(batch.mean()) for batch in values) / 3) > 1e-4  # which a mean of means would give


def test_counts_stay_exact_beyond_what_float32_holds():
    meters = Meters()
    for _ in range(3):
        meters.add({"n": Mean(torch.tensor(2.0**24 + 2), torch.tensor(2.0**24))})
    meters.add({"n": Mean(torch.tensor(1.0), torch.tensor(1.0))})
    assert meters.read()["n"] == (3 * (2**24 + 2) + 1) / (3 * 2**24 + 1)


def test_what_was_never_counted_is_left_out():
    meters = Meters()
    assert meters.read() == {}
    meters.add({"a": Mean(torch.tensor(1.0), torch.tensor(2.0)), "b": Mean(torch.tensor(0.0), torch.tensor(0.0))})
    assert meters.read() == {"a": 0.5}


def test_names_may_come_and_go():
    meters = Meters()
    meters.add({"a": Mean.of(torch.tensor([1.0, 3.0]))})
    meters.add({"b": Mean.of(torch.tensor([5.0]))})
    assert meters.read() == {"a": 2.0, "b": 5.0}
    meters.clear()
    assert meters.read() == {}


def test_a_restored_meter_goes_on():
    one, two = Meters(), Meters()
    one.add({"a": Mean.of(torch.tensor([1.0, 2.0]))})
    two.restore(one.state(), CPU)
    for meters in (one, two):
        meters.add({"a": Mean.of(torch.tensor([6.0]))})
    assert one.read() == two.read() == {"a": 3.0}


def test_meters_keep_no_graph():
    meters = Meters()
    weight = torch.ones((), requires_grad=True)
    meters.add({"a": Mean(weight * 2, torch.ones(()))})
    assert not meters.state()["a"].requires_grad


def test_mean_of_any_shape_and_dtype():
    mean = Mean.of(torch.tensor([[True, False], [True, True]]))
    assert (float(mean.total), float(mean.num)) == (3.0, 4.0)
    assert Mean.of(torch.ones(300, dtype=torch.bfloat16)).num == 300.0
