import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from sslkit import Batch, MLPProbe, RunFailedError, RunInterruptedError, Step, StepEnd, StepOutput, TrainingOptions, evaluate, fit, pretrain
from sslkit.contract.events import Event, FitStart
from sslkit.data.loader import Loader
from sslkit.training.fit import FitResult
from sslkit.training.seeds import global_seed
from sslkit.training.state import training_batches
from tests.contract.contexts import make_context
from tests.contract.miniatures.byol import BYOL
from tests.contract.miniatures.images import tiny_images
from tests.evaluators.labeled import arrays, network
from tests.training.brightness import CPU, Brightness, assert_same_state, short, stop_after

# ------------------------------------------------------------------------------------------------------------------- sizes


@given(num_images=st.integers(1, 5000), batch_size=st.integers(1, 600))
def test_every_image_counts_once_in_batches_that_are_full_but_at_the_end(num_images: int, batch_size: int):
    sizes = training_batches(num_images, batch_size)
    assert sum(sizes) == num_images
    assert set(sizes[:-1]) <= {batch_size}
    assert sizes[-1] <= batch_size + 1
    assert min(sizes) > 1 or 1 in (num_images, batch_size)
    full = training_batches(num_images, batch_size, drop_last=True)
    assert full == (batch_size,) * (num_images // batch_size)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "expected"),
    [
        (24, 8, (8, 8, 8)),
        (22, 8, (8, 8, 6)),
        (18, 8, (8, 8, 2)),
        (17, 8, (8, 9)),
        (9, 8, (9,)),
        (7, 3, (3, 4)),
        (5, 2, (2, 3)),
        (3, 2, (3,)),
        (1, 2, (1,)),
        (3, 1, (1, 1, 1)),
        (5, 8, (5,)),
    ],
)
def test_the_last_batch_is_smaller_and_a_single_image_joins_the_one_before(num_images: int, batch_size: int, expected: tuple[int, ...]):
    assert training_batches(num_images, batch_size) == expected


# ---------------------------------------------------------------------------------------------------------- whole trainings


class Normalised(Brightness):
    """Features through a BatchNorm of one value an image, once for each of two halves of the batch; remembers what it saw."""

    def __init__(self, *, halves: bool = False) -> None:
        super().__init__()
        with global_seed(1):
            self.norm = nn.BatchNorm1d(8)
        self.halves = self.full_batches = halves
        self.seen: list[Tensor] = []
        self.measured: list[Tensor] = []

    def make_views(self, batch: Batch, generator, *, train: bool) -> dict[str, Tensor]:
        (self.seen if train else self.measured).append(batch.indices)
        return super().make_views(batch, generator, train=train)

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        features = self.backbone.embed(views["images"])
        parts = features.tensor_split(2) if self.halves else [features]
        error = self.head(torch.cat([self.norm(part) for part in parts])).squeeze(1) - views["targets"]
        return StepOutput(error.square().mean(), {})


def train(objective: Brightness, num_images: int, batch_size: int, **options: object) -> FitResult:
    loader = Loader(tiny_images(num_images), batch_size=batch_size, device=CPU)
    heldout = Loader(tiny_images(batch_size + 1), batch_size=batch_size, device=CPU)
    return fit(objective, loader, heldout, short(epochs=2, batch_size=batch_size), make_context(log_every=1, **options))


@pytest.mark.parametrize("halves", [False, True], ids=["whole", "in halves"])
@settings(max_examples=10)
@given(data=st.data())
def test_any_number_of_images_trains_with_batchnorm(halves: bool, data: st.DataObject):
    batch_size = data.draw(st.integers(7 if halves else 2, 9))
    num_images = data.draw(st.integers(batch_size, 3 * batch_size + 1))
    objective = Normalised(halves=halves)
    events: list[Event] = []
    result = train(objective, num_images, batch_size, emit=events.append)
    sizes = training_batches(num_images, batch_size, drop_last=halves)
    assert [len(part) for part in objective.seen] == [*sizes, *sizes]
    for epoch in (objective.seen[: len(sizes)], objective.seen[len(sizes) :]):
        seen = torch.cat(epoch).unique()
        assert len(seen) == sum(sizes)
        assert halves or seen.tolist() == list(range(num_images))
    steps = [event for event in events if isinstance(event, StepEnd)]
    assert [event.num_images for event in steps] == [*sizes, *sizes]
    assert steps[-1].epoch == 2.0
    assert (result.steps, next(event.num_steps for event in events if isinstance(event, FitStart))) == (2 * len(sizes),) * 2
    assert [len(part) for part in objective.measured] == [batch_size, 1] * 2, "an evaluation neither drops nor moves an image"


@pytest.mark.parametrize(("num_images", "batch_size"), [(9, 4), (10, 4), (5, 2)])
def test_a_training_with_a_remainder_ends_with_the_same_bits_wherever_it_was_interrupted(num_images: int, batch_size: int, tmp_path: Path):
    whole = Normalised()
    expected = train(whole, num_images, batch_size)
    for steps in range(1, expected.steps):
        resumed = Normalised()
        with contextlib.suppress(RunInterruptedError):
            train(Normalised(), num_images, batch_size, folder=tmp_path / str(steps), should_stop=stop_after(steps))
        assert train(resumed, num_images, batch_size, folder=tmp_path / str(steps)) == expected
        assert_same_state(resumed, whole)


@pytest.mark.parametrize("batch_size", [29, 14, 2])
def test_a_probe_with_batchnorm_trains_on_one_image_more_than_whole_batches(batch_size: int):
    data = arrays(2 * 29 + 1 if batch_size == 29 else 29)
    probe = MLPProbe(layers=("body",), epochs=2, batch_size=batch_size, hidden=4)
    assert 0 <= evaluate(probe, network(), data).metrics["body.top1"] <= 100


def test_a_batch_size_of_one_is_named_where_batchnorm_cannot_do_with_it():
    message = r"^BatchNorm cannot normalise one value per channel in stage 'pretrain' \(batch_size 1, .*raise"
    with pytest.raises(RunFailedError, match=message):
        pretrain(BYOL(crop=6), network(), arrays(), training=TrainingOptions(epochs=1, batch_size=1))
