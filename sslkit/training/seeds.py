"""Explicit randomness: every generator is seeded from (seed, stage, part, purpose), so no two draws depend on each other's order."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable: equal parts give equal seeds, on every machine."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def make_generator(seed: int, device: torch.device | str = "cpu") -> Generator:
    """A generator of its own on ``device``."""
    return Generator(device=device).manual_seed(seed)


@contextmanager
def global_seed(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators, which initialisers and dropout draw from, and put their states back afterwards.

    Unlike ``torch.manual_seed``, it leaves other devices alone: work on the CPU within a fit on a GPU does not change its dropout.
    """
    generators = global_generators(torch.device(device))
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def global_generators(device: torch.device) -> list[Generator]:
    """Torch's own, of the CPU and of ``device``."""
    if device.type == "cpu":
        return [torch.default_generator]
    if device.type == "mps":
        return [torch.default_generator, torch.mps._get_default_mps_generator()]  # noqa: SLF001 - torch has no public name for it
    module = torch.get_device_module(device)
    module.init()
    return [torch.default_generator, module.default_generators[module.current_device() if device.index is None else device.index]]
