"""Rows of all processes: two of them must end with the gradients of one that has all rows."""

import sys
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import torch
from torch import Tensor

from sslkit import gather
from sslkit.storage.tensor_file import load_tensors

WORKER = """
import sys
import torch
from torch import distributed
from sslkit import gather
from sslkit.storage.tensor_file import save_tensors
from tests.training.test_gather import contrast, spread, rows, weights
from pathlib import Path

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
found = {}
for name, loss_of in {"contrast": contrast, "spread": spread}.items():
    weight = weights()
    z = rows()[4 * rank : 4 * rank + 4] @ weight
    loss = loss_of(z, 4 * rank)
    loss.backward()
    total = torch.stack([loss.detach(), *weight.grad.flatten()])
    distributed.all_reduce(total)  # what parallel training does to gradients: a mean over processes
    found[name] = total / 2
found["labels"] = gather(torch.tensor([rank, 7]))
found["no rows"] = gather(torch.zeros(0, 3))
found["odd"] = gather((rows()[:3, :2] + rank).T)  # not contiguous
save_tensors(folder / f"{rank}.safetensors", found)
distributed.destroy_process_group()
"""


def rows() -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()


def contrast(z: Tensor, first: int) -> Tensor:
    """Each process's own rows against the rows of all."""
    logits = z @ gather(z).T
    return torch.nn.functional.cross_entropy(logits, torch.arange(first, first + len(z)).roll(1))


def spread(z: Tensor, _first: int) -> Tensor:
    """The same loss in each process: one that is no sum over rows."""
    every = gather(z)
    return ((every - every.mean(dim=0)).T @ every).square().sum()


def test_in_one_process_it_is_the_identity():
    z = torch.ones(3, 2, requires_grad=True)
    assert gather(z) is z


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_all_rows(tmp_path: Path):
    command = [sys.executable, "-c", WORKER]
    workers = [Popen([*command, str(rank), str(tmp_path)], stderr=PIPE, text=True) for rank in range(2)]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    first, second = (load_tensors(tmp_path / f"{rank}.safetensors")[0] for rank in range(2))
    for name in ("labels", "odd", "contrast", "spread"):
        assert torch.equal(first[name], second[name])
    assert first["labels"].tolist() == [0, 7, 1, 7]
    assert torch.equal(first["odd"], torch.cat([(rows()[:3, :2] + rank).T for rank in range(2)]))
    assert first["no rows"].shape == (0, 3)

    weight = weights()
    z = rows() @ weight
    halves = [torch.nn.functional.cross_entropy(part @ z.T, torch.arange(4 * i, 4 * i + 4).roll(1)) for i, part in enumerate(z.split(4))]
    for name, loss in {"contrast": torch.stack(halves).mean(), "spread": ((z - z.mean(dim=0)).T @ z).square().sum()}.items():
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        torch.testing.assert_close(first[name], torch.stack([loss.detach(), *gradient.flatten()]))
