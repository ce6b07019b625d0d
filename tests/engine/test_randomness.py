import pytest
import torch

from sslkit.engine.randomness import derive_seed, global_seed, make_generator


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "pretrain", "", "order") == 2655701935946108588
    assert derive_seed(0, "pretrain", "", "order") == derive_seed("0", "pretrain", "", "order")


def test_every_part_counts():
    parts = [
        (0, "a", "", "b"),
        (1, "a", "", "b"),
        (0, "c", "", "b"),
        (0, "a", "k20", "b"),
        (0, "a", "", "d"),
        (0, "ab", "", ""),
        (0, "a", "b", ""),
    ]
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
