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
    """Seed torch's global generators, which initialisers and dropout draw from, and put their states back afterwards."""
    place = torch.device(device)
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
