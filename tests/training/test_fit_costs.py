"""What a step costs beside its arithmetic: operations, each of which is a launch on a GPU, and values read, which wait for it."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Generator, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sslkit import Augment, Batch, DataInfo, Objective, Step, StepEnd, TrainingOptions, fit
from sslkit.backbones.nin import NIN
from sslkit.contract.events import Event
from sslkit.contract.images import ImageSet
from sslkit.data.loader import Loader
from sslkit.evaluators.classifier import Classifier, FrozenFeatures, build_heads
from sslkit.training.seeds import global_seed
from sslkit_rotnet import RotNet
from tests.contract.contexts import make_context
from tests.contract.miniatures.images import tiny_images
from tests.evaluators.labeled import labeled
from tests.training.brightness import CPU, Brightness, run


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = str(operation)
        self.counts[name] += not name.startswith("profiler.")  # marks in a profile are no work
        return operation(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts the times that a value is read, for which a GPU must be waited for."""

    READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += getattr(function, "__name__", "") in self.READING
        return function(*args, **(kwargs or {}))


# ------------------------------------------------------------------------------------------------- against the bare loop

EVERYTHING = Augment(crop_padding=2, horizontal_flip=True)
ALLOWED = 10
"""Operations more than the bare loop's, in a step."""


def bare_steps(objective: Objective, images: ImageSet, augment: Augment, autocast: torch.dtype | None) -> Iterator[None]:
    """The loop that everybody writes, doing the same job: an iteration a step."""
    pixels, generator = images.pixels, Generator()
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    objective.train()
    for indices in torch.randperm(len(pixels)).split(2):
        batch = pixels[indices]
        if augment == EVERYTHING:
            top, left = torch.randint(0, 5, (2, len(batch)), generator=generator)
            windows = nn.functional.pad(batch, [2] * 4).unfold(2, pixels.shape[2], 1).unfold(3, pixels.shape[3], 1)
            batch = windows[torch.arange(len(batch)), :, top, left]
            flip = torch.rand(len(batch), generator=generator) < 0.5
            batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
        with torch.no_grad():
            views = objective.make_views(Batch(batch, indices), generator, train=True)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            loss = objective(views, Step("main")).loss
        loss.backward()
        optimizer.step()
        yield


def of_one_step(totals: list[Counter[str]]) -> Counter[str]:
    """Neither the first, in which an optimizer makes its state, nor the last, in which metrics are read."""
    assert len(totals) >= 5
    return totals[3] - totals[2]


def count_bare(objective: Objective, images: ImageSet, augment: Augment, autocast: torch.dtype | None) -> Counter[str]:
    with Operations() as operations:
        return of_one_step([operations.counts.copy() for _ in bare_steps(objective, images, augment, autocast)])


def count_ours(objective: Objective, images: ImageSet, augment: Augment, autocast: torch.dtype | None) -> Counter[str]:
    totals: list[Counter[str]] = []

    def note(event: Event) -> None:
        if isinstance(event, StepEnd):
            totals.append(operations.counts.copy())

    loader = Loader(images, batch_size=2, device=CPU, options=augment)
    context = make_context(log_every=1000, emit=note, autocast=autocast)
    with Operations() as operations:
        fit(objective, loader, None, TrainingOptions(epochs=1, batch_size=2, augment=augment), context)
    return of_one_step(totals)


def rotnet(images: ImageSet) -> Objective:
    with global_seed(0):
        return RotNet().build_objective(NIN(images.image, num_blocks=3, width=0.02), DataInfo(images.image, len(images)))


def probe(*layers: str) -> Callable[[ImageSet], Objective]:
    """Linear heads on a frozen backbone, each with a metric of its own."""

    def build(images: ImageSet) -> Objective:
        data = labeled()
        backbone = NIN(images.image, num_blocks=4, width=0.02).eval()
        heads = build_heads("linear", layers, backbone, data, make_context())
        return Classifier(backbone, heads, data, frozen=FrozenFeatures())

    return build


LAYERS = ("conv1", "conv2", "conv3", "conv4")


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("augment", [Augment(), EVERYTHING], ids=["plain", "augmented"])
@pytest.mark.parametrize("build", [rotnet, probe(*LAYERS)], ids=["rotnet", "probe"])
def test_a_step_asks_for_hardly_more_than_the_bare_loop(
    build: Callable[[ImageSet], Objective], augment: Augment, autocast: torch.dtype | None
):
    images = tiny_images(12, size=8) if build is rotnet else labeled().train
    ours, bare = (count(build(images), images, augment, autocast) for count in (count_ours, count_bare))
    assert bare["aten._fused_sgd_.default"] == 1
    assert ours.total() - bare.total() < ALLOWED, ours - bare


def test_metrics_cost_no_operation_each():
    more = []
    for layers in (LAYERS[3:], LAYERS):
        images = labeled().train
        ours, bare = (count(probe(*layers)(images), images, Augment(), None) for count in (count_ours, count_bare))
        more.append(ours.total() - bare.total())
    assert more[0] == more[1]


# ---------------------------------------------------------------------------------------------------- against larger steps


class Counts(NamedTuple):
    operations: Counter[str]
    reads: int


def count(batch_size: int, objective: Objective | None = None) -> Counts:
    training = TrainingOptions(epochs=1, batch_size=batch_size, augment=EVERYTHING)
    with Operations() as operations, Reads() as reads:
        assert run(objective or Brightness(), training, log_every=1000).steps == -(-22 // batch_size)
    return Counts(operations.counts, reads.count)


class Reading(Brightness):
    def on_after_step(self, phase, context) -> None:
        float(self.head.bias)


def test_no_value_is_read_in_a_step():
    few, many = count(11).reads, count(2).reads
    assert few == many > 0, "only at the end of an epoch"
    assert count(2, Reading()).reads - count(11, Reading()).reads == 9, "11 steps against 2"


def test_nothing_is_done_image_by_image_in_a_step():
    few, many, larger = (count(batch_size).operations for batch_size in (11, 2, 22))
    per_step = (many.total() - few.total()) / 9  # 11 steps against 2
    assert few.total() - larger.total() == pytest.approx(per_step, abs=1), "a step costs the same for 2, 11 and 22 images"
