"""A fit whose next batch does not come: what it has learnt is kept, and it goes on from there to the same bits."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sslkit import Augment, DataError, RunFailedError, RunInterruptedError, SslkitError, fit
from sslkit.data import workers
from sslkit.data.loader import Loader
from sslkit.training.fit import FitResult
from sslkit.training.stopping import stoppable
from tests.contract.contexts import make_context
from tests.contract.miniatures.images import TinyImages
from tests.training.brightness import CPU, IMAGES, Brightness, assert_same_state, short

LAST = 21
"""The image that is met in one step of each epoch, and there is trouble about."""


class Trouble(TinyImages):
    """Streamed images, and what happens to whoever reads the last of them from the second epoch on."""

    def __init__(self, happens: Callable[[], object], marker: Path) -> None:
        super().__init__(IMAGES.read(range(22)), resident=False)
        self._happens, self._marker = happens, marker

    def read(self, indices):
        if LAST in indices:
            if self._marker.exists():
                self._happens()
            self._marker.touch()
        return super().read(indices)


def train(objective: Brightness, images: TinyImages, folder: Path, num_workers: int) -> FitResult:
    training = short(augment=Augment(crop_padding=2))
    loader = Loader(images, batch_size=8, device=CPU, options=training.augment, num_workers=num_workers)
    return fit(objective, loader, None, training, make_context(folder=folder))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stall() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def damaged() -> None:
    raise DataError("images/21.png: cannot be decoded")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "num_workers", "kind", "message"),
    [
        (die, 1, RunFailedError, r"^a process that decodes images died \(SIGKILL\)"),
        (damaged, 1, DataError, r"^images/21\.png: cannot be decoded$"),
        (damaged, 0, DataError, r"^images/21\.png: cannot be decoded$"),
        (stall, 1, RunInterruptedError, r"^stopped in stage 'pretrain' after [345] steps$"),
    ],
)
def test_a_batch_that_does_not_come_costs_nothing_of_what_was_learnt(
    happens: Callable[[], object], num_workers: int, kind: type[SslkitError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(workers, "_FAREWELL", 0.5)
    marker = tmp_path / "met"
    asked = iter([False] * 10)  # some waits are for workers to begin
    with stoppable(lambda: next(asked, True) if happens is stall else False), pytest.raises(kind, match=message):
        train(Brightness(dropout=0.5), Trouble(happens, marker), tmp_path / "run", num_workers)
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert 3 <= int(checkpoint.stem.rpartition("-")[2]) < 6
    marker.unlink()
    resumed, whole = Brightness(dropout=0.5), Brightness(dropout=0.5)
    assert train(resumed, Trouble(lambda: None, marker), tmp_path / "run", 1 - num_workers).steps == 9
    train(whole, IMAGES, tmp_path / "whole", 0)
    assert_same_state(resumed, whole)
