import pytest
import torch

from sslkit.training.seeds import derive_seed, global_generators, global_seed, make_generator


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "pretrain", "", "order") == 2655701935946108588
    assert derive_seed(0, "pretrain", "", "order") == derive_seed("0", "pretrain", "", "order")


def test_every_part_counts():
    parts = [(0, "a", "", "b"), (1, "a", "", "b"), (0, "c", "", "b"), (0, "a", "k20", "b"), (0, "a", "", "d"), (0, "ab", "", "")]
    parts.append((0, "a", "b", ""))
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_are_their_own():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (torch.rand(4, generator=make_generator(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, torch.rand(4, generator=make_generator(8)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_state_is_seeded_and_put_back():
    before = torch.get_rng_state()
    with global_seed(7):
        inside = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="the stage failed"), global_seed(8):
        raise RuntimeError("the stage failed")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    assert torch.equal(inside, torch.rand(4))
    torch.set_rng_state(before)


def test_the_global_states_of_other_devices_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    """Work on the CPU in the middle of a fit would make every epoch's dropout on a GPU the same."""
    for module in (torch.cuda, torch.xpu, torch.mps):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, lambda _seed: pytest.fail("seeded another device"), raising=False)
    with global_seed(7):
        pass


@pytest.mark.parametrize(("device", "index"), [("cuda", 1), ("cuda:0", 0), ("xpu:1", 1)])
def test_the_global_generator_of_a_device_is_seeded_and_put_back(device: str, index: int, monkeypatch: pytest.MonkeyPatch):
    place = torch.device(device)
    module = getattr(torch, place.type)
    stand_ins = (make_generator(1), make_generator(2))
    monkeypatch.setattr(module, "init", lambda: None)
    monkeypatch.setattr(module, "current_device", lambda: 1)
    monkeypatch.setattr(module, "default_generators", stand_ins)
    assert global_generators(place) == [torch.default_generator, stand_ins[index]]
    before = [generator.get_state() for generator in stand_ins]
    with global_seed(7, device):
        assert torch.equal(stand_ins[index].get_state(), make_generator(7).get_state())
        assert torch.equal(stand_ins[1 - index].get_state(), before[1 - index])
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(stand_ins, before, strict=True))
