"""``forward`` is what torch.compile compiles: of every family it must be one graph, and one graph must do for all steps."""

import copy

import pytest
import torch

from sslkit import Step
from sslkit.data.loader import Loader
from sslkit.training.seeds import global_seed
from tests.contract.families import CPU, Family, assert_same, build, every_family
from tests.contract.miniatures.images import tiny_images

pytestmark = pytest.mark.slow  # compiles


@every_family
def test_forward_traces_into_one_graph_that_is_not_traced_again(family: Family) -> None:
    eager = build(family)
    twin = copy.deepcopy(eager)
    torch.compiler.reset()
    traced = torch.compile(twin, fullgraph=True, backend="eager")
    loader = Loader(tiny_images(8), batch_size=8, device=CPU)
    generator = torch.Generator().manual_seed(0)
    for step, batch in enumerate(loader.batches(torch.arange(16) % 8)):
        views = eager.make_views(batch, generator, train=True)
        schedule = {name: torch.tensor(value(step / 2)) for name, value in eager.schedules().items()}
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            for phase in eager.phases:
                with global_seed(step):
                    expected = eager(views, Step(phase, schedule))
                with global_seed(step):
                    found = traced(views, Step(phase, schedule))
                assert torch.equal(found.loss, expected.loss)
                assert found.loss.requires_grad
                assert found.metrics == expected.metrics
    assert_same(twin.state_dict(), eager.state_dict())
