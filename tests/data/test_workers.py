"""Decoding in other processes: they stall, die, are too many for shared memory, and are told to stop."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from pathlib import Path

import pytest
import torch

import sslkit.data.loader as loader_module
import sslkit.data.workers as module
from sslkit import DataError, Loader, RunFailedError, RunInterruptedError
from sslkit.contract.errors import SslkitWarning
from sslkit.data.loader import choose_num_workers, decoding_with
from sslkit.training.stopping import SIGNALS, stoppable
from tests.contract.miniatures.images import TinyImages, tiny_images

CPU = torch.device("cpu")
USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture(autouse=True)
def _short_farewell(monkeypatch: pytest.MonkeyPatch):
    """Torch's thread looks for dead workers every five seconds only."""
    monkeypatch.setattr(module, "_FAREWELL", 0.5)


def source(cls: type[TinyImages] = TinyImages, *, number: int = 12, num_workers: int | None = None) -> Loader:
    images = cls(tiny_images(number).read(range(number)), resident=False)
    return Loader(images, batch_size=4, device=CPU, num_workers=num_workers)


class Where(TinyImages):
    """Pixels that say which process they come from."""

    def read(self, indices):
        return torch.full((len(indices), 3, 8, 8), os.getpid() % 251, dtype=torch.uint8)


@pytest.mark.parametrize(("num_workers", "here"), [(0, True), (1, False), (2, False)])
def test_the_number_of_workers_decides_where_images_are_decoded_and_nothing_else(num_workers: int, here: bool):
    decoded = next(source(Where, num_workers=num_workers).in_order()).images
    assert (decoded.unique().tolist() == [os.getpid() % 251]) == here
    with decoding_with(num_workers):  # as a stage says
        assert (next(source(Where).in_order()).images.unique().tolist() == [os.getpid() % 251]) == here
    batches = list(source(num_workers=num_workers).in_order())
    assert torch.equal(torch.cat([batch.images for batch in batches]), tiny_images(12).read(range(12)))
    assert torch.equal(torch.cat([batch.indices for batch in batches]), torch.arange(12))


# --------------------------------------------------------------------------------------------------------------------- waits


class Stalled(TinyImages):
    """Its second batch never comes: whoever reads it stops, as on a disk that hangs."""

    def read(self, indices):
        if 4 in indices:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().read(indices)


@pytest.mark.slow
def test_a_stop_is_heard_while_a_worker_is_stalled_and_leaves_no_process():
    batches = source(Stalled, num_workers=2).in_order()
    assert len(next(batches).indices) == 4
    with stoppable(lambda: True), pytest.raises(RunInterruptedError, match=r"^stopped while waiting for images$"):
        next(batches)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_wait_for_a_stalled_worker_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_PATIENCE", 1.0)
    monkeypatch.setattr(module, "_PATIENCE_AN_IMAGE", 0.0)
    with pytest.raises(
        RunFailedError,
        match=r"^no batch of images came for 1 seconds from the processes that decode them; is the disk slow, or shared memory full "
        r"\(/dev/shm: [\d,]+ MiB, [\d,]+ MiB free\)\? num_workers = 0 decodes in the run's own process; the same command resumes from ",
    ):
        list(source(Stalled, num_workers=1).in_order())
    assert multiprocessing.active_children() == []


def test_workers_stay_from_pass_to_pass_and_end_with_the_loader():
    images, shuffled = source(num_workers=2), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert len(list(images.in_order())) == 3
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for order, start in ((shuffled, 0), (shuffled.flip(0), 1), (shuffled[:5], 0), (shuffled[:0], 0)):
        batches = images.batches(order, start=start)
        found = [next(batches) for _ in order.split(4)[start:] if len(order)]  # no further than to the last batch
        batches.close()
        assert torch.equal(torch.cat([order[:0], *(batch.indices for batch in found)]), order[4 * start :])
        assert all(torch.equal(batch.images, tiny_images(12).read(batch.indices.tolist())) for batch in found)
        assert multiprocessing.active_children() == workers
    del images, batches
    assert multiprocessing.active_children() == []


def test_workers_of_the_last_two_image_sets_stay_and_end_with_the_block():
    with decoding_with(1):
        loaders = [source() for _ in range(3)]
        for loader in (*loaders, loaders[0]):
            assert len(list(loader.in_order())) == 3
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def test_two_passes_at_the_same_time_do_not_mix():
    images = source(num_workers=1)
    orders = torch.arange(12), torch.arange(12).flip(0)
    for one, two in zip(*(images.batches(order) for order in orders), strict=True):
        assert torch.equal(one.indices, 11 - two.indices)
    assert len(multiprocessing.active_children()) == 2
    del images
    assert multiprocessing.active_children() == []


def test_who_leaves_early_leaves_no_process():
    batches = source(num_workers=2).in_order()
    next(batches)
    batches.close()
    assert multiprocessing.active_children() == []


# -------------------------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize(
    ("die", "message"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGBUS),  # what the system does to whoever writes into shared memory that is full
            r"^shared memory is full: a process that decodes images died of it \(/dev/shm: .*\); give it more, in Docker with "
            r"--shm-size=8g, or lower num_workers; num_workers = 0 decodes in the run's own process; the same command resumes",
        ),
        (lambda: os._exit(3), r"^a process that decodes images died \(exit code 3\), "),
    ],
    ids=["full shared memory", "exit"],
)
def test_what_a_worker_died_of_is_named_and_torch_prints_nothing(die, message, capfd: pytest.CaptureFixture[str]):
    class Dying(TinyImages):
        def read(self, indices):
            die()

    with pytest.raises(RunFailedError, match=message):
        list(source(Dying, num_workers=1).in_order())
    assert capfd.readouterr() == ("", "")


class Doomed(TinyImages):
    """Dies at its second batch, once the first has arrived."""

    arrived = multiprocessing.get_context("fork").Event()

    def read(self, indices):
        if 4 in indices:
            self.arrived.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(indices)


def test_a_death_is_heard_of_with_the_next_batch_and_not_in_the_midst_of_something_else():
    before = signal.getsignal(signal.SIGCHLD)
    batches = source(Doomed, num_workers=1).in_order()
    next(batches)
    Doomed.arrived.set()
    deadline = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)  # torch's handler would raise here
    assert signal.getsignal(signal.SIGCHLD) == before
    died = r"^a process that decodes images died \(SIGKILL\), .*; the same command resumes from the last checkpoint; "
    with pytest.raises(RunFailedError, match=died):
        next(batches)


def test_a_death_between_two_passes_is_heard_of_in_the_second():
    images = source(num_workers=2)
    list(images.in_order())
    multiprocessing.active_children()[0].kill()
    with pytest.raises(RunFailedError, match=r"^a process that decodes images died( \(SIGKILL\))?, "):
        list(images.in_order())
    assert multiprocessing.active_children() == []


class Signalled(TinyImages):
    """Sends its reader the signals of a terminal and of a scheduler."""

    def read(self, indices):
        for number in SIGNALS:
            os.kill(os.getpid(), number)
        return super().read(indices)


def test_a_worker_leaves_signals_to_the_run():
    assert sum(len(batch.indices) for batch in source(Signalled, num_workers=2).in_order()) == 12


class Broken(TinyImages):
    def read(self, indices):
        raise DataError(f"images/{indices[0]}.png: cannot be decoded")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_is_the_same_error_with_workers_and_without(num_workers: int):
    with pytest.raises(DataError, match=r"^images/0\.png: cannot be decoded$"):
        list(source(Broken, num_workers=num_workers).in_order())


# ------------------------------------------------------------------------------------------------------------- shared memory


@pytest.mark.parametrize(
    ("batches", "wanted", "expected", "who"),
    [
        *((11, None, 4, None), (100, None, 4, None), (100, 40, 40, None), (100, 0, 0, None), (0, 0, 0, None)),
        (10, None, 3, "3 processes instead of 4"),
        (5, 2, 1, "1 process instead of 2"),
        (4, 8, 0, "the run's own process"),
    ],
    ids=str,
)
def test_workers_are_as_many_as_cores_or_as_asked_for_but_fewer_where_shared_memory_is_small(
    batches: int, wanted: int | None, expected: int, who: str | None, monkeypatch: pytest.MonkeyPatch
):
    free = batches * 98_304  # bytes; on 4 cores
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(64 * 2**20, 0, free))
    monkeypatch.setattr(loader_module, "usable_cores", lambda: 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SslkitWarning)
        assert choose_num_workers(tiny_images(200), 128, wanted) == expected
    assert [str(warning.message) for warning in caught] == [
        f"images are decoded by {who}, which is slower, because shared memory is small (/dev/shm: 64 MiB, {free / 2**20:.0f} MiB free, and a batch takes 0 MiB):"
        f" give it more, in Docker with --shm-size=8g; num_workers = {expected} says that this is meant"
    ] * (who is not None)


# --------------------------------------------------------------------------------------------- scripts without a main guard

SCRIPT = """
import multiprocessing, sys
import torch
from sslkit import Loader
from sslkit.data import workers
from tests.contract.miniatures.images import TinyImages, tiny_images

print("runs")
START
CLASS
images = Images(torch.zeros(70_000, 3, 1, 1, dtype=torch.uint8), resident=False)
batches = list(Loader(images, batch_size=10_000, device=torch.device("cpu"), num_workers=2).in_order())
print(len(batches), sum(len(batch.indices) for batch in batches))
"""
STARTS = {
    "as it is": "",
    "spawn set by the user": 'multiprocessing.set_start_method("spawn")',
    "forkserver set by the user": 'multiprocessing.set_start_method("forkserver")',
    "macOS and Windows": 'workers._START = "spawn"',
}
OWN = "class Images(TinyImages): pass"


@pytest.mark.slow
@pytest.mark.parametrize("from_stdin", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("start", STARTS)
def test_a_script_needs_no_main_guard(start: str, own: bool, from_stdin: bool, tmp_path: Path):
    """Above what fits into a pipe at once, or a worker that dies of the script would not be missed."""
    script = SCRIPT.replace("START", STARTS[start]).replace("CLASS", OWN if own else "Images = TinyImages")
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, *(["-"] if from_stdin else ["script.py"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}  # noqa: PTH109
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        input=script if from_stdin else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "runs\n7 70000\n"), done.stderr
    note = "their image set is defined in the script itself; move it into a module of its own"
    assert (note in done.stderr) == (own and start == "macOS and Windows")


def test_an_image_set_that_cannot_be_sent_is_read_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_START", "spawn")
    images = tiny_images(12)
    images.opened = (line for line in "")
    with pytest.warns(SslkitWarning, match=r"^images are decoded in the run's own process, .* cannot be sent to another \(cannot pickle"):
        assert choose_num_workers(images, 4, 2) == 0
