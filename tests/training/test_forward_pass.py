"""When what is compiled, over several fits. That compiling changes nothing is tested with the loop."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import SymInt, Tensor

from sslkit import FineTune, SemiSupervised, TrainingOptions, evaluate, fit
from sslkit.contract.runtime import Runtime
from sslkit.data.loader import Loader
from tests.contract.contexts import make_context
from tests.contract.miniatures.images import tiny_images
from tests.evaluators.labeled import arrays, network
from tests.training.brightness import CPU, Brightness

pytestmark = pytest.mark.slow  # compiles

RUNTIME = Runtime(device="cpu", precision="float32", compile=True)
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 8}


@dataclass
class Compiler:
    """Stands in for torch's: runs each graph as it is.

    Attributes:
        graphs: how many there are so far.
        open_sizes: of them, those for batches of any size.
    """

    graphs: int = 0
    open_sizes: int = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor | SymInt]) -> Callable:
        self.graphs += 1
        self.open_sizes += any(isinstance(value, SymInt) for value in inputs)
        return graph.forward


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    torch.compiler.reset()
    stand_in, compile_with = Compiler(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_with(model, **{**options, "mode": None}, backend=stand_in))
    yield stand_in
    torch.compiler.reset()


def test_fits_of_one_architecture_share_what_is_compiled(compiler: Compiler):
    options: dict[str, Any] = {"labels_per_class": (1, 2), "layers": ("body",), "selection": "random", "num_subsets": 5}
    evaluate(SemiSupervised(**SHORT, **options, head="linear", freeze=False), network(), arrays(), runtime=RUNTIME)  # ten fits
    assert compiler.graphs == 1


def test_no_stage_of_a_long_run_is_left_uncompiled(compiler: Compiler, caplog: pytest.LogCaptureFixture):
    """Torch compiles a function for so many networks, and says in a log at most that it leaves the next as it is."""
    limit: Any = torch._dynamo.config
    with limit.patch(recompile_limit=2), caplog.at_level(logging.WARNING, logger="torch._dynamo"):
        for width in range(1, 5):
            before = compiler.graphs
            evaluate(FineTune(**SHORT), network(width=width), arrays(), runtime=RUNTIME)
            assert compiler.graphs == before + 1
    assert "recompile_limit" not in caplog.text


def test_batches_of_two_sizes_are_compiled_for_two_sizes(compiler: Compiler):
    """Not for any size, which torch would do from the second on."""
    for batch_size in (4, 8):
        loader = Loader(tiny_images(16), batch_size=batch_size, device=CPU)
        fit(Brightness(), loader, None, TrainingOptions(epochs=1, batch_size=batch_size), make_context(compile=True))
    assert compiler.graphs == 2
    assert compiler.open_sizes == 0
