"""The promises of an optimizer."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Generator, Tensor, nn

from sslkit.contract.errors import PluginError, RunFailedError, RunInterruptedError
from sslkit.contract.images import Batch
from sslkit.contract.objective import Objective, Step, StepOutput, TrainContext
from sslkit.contract.training import OptimizerFactory, Schedule
from sslkit.data.loader import Loader
from sslkit.testing.promises import BrokenPromiseError, check_options, check_same, promises_of, require, state_of
from sslkit.testing.specimens import CPU, IMAGE, TinyBackbone, cpu_context, image_set
from sslkit.training.fit import fit
from sslkit.training.options import TrainingOptions
from sslkit.training.schedules import Constant, Cosine
from sslkit.training.seeds import global_seed

NUM_IMAGES, BATCH_SIZE, EPOCHS = 12, 4, 8
STOPS = (1, 8, 10)
"""Steps out of 24 after which a run is interrupted, each time counted from where it was resumed."""


def check_optimizer(optimizer: OptimizerFactory) -> None:
    """Check an optimizer in a short training of two parameter groups.

    Its options, whether it trains every parameter it is given and no other, at the rates it is given, whether it repeats, and whether a
    run that was interrupted three times ends with the same bits: all that it remembers must be in its ``state_dict``, and can be saved.
    One parameter never gets a gradient, one gets its first late, and a module's state is reset on the way.

    Args:
        optimizer: the factory, with the options to test.

    Raises:
        AssertionError: names the broken promise.
        SslkitError: what the optimizer itself refuses.
    """
    with promises_of(optimizer), TemporaryDirectory() as folder:
        check_options(type(optimizer))
        require("lr" in getattr(type(optimizer), "__dataclass_fields__", {}), "must have an option lr, the base rate")
        before, whole = state_of(_regression()), _train(optimizer, Path(folder, "whole"))
        for name, tensor in whole.items():
            require(tensor.isfinite().all(), f"{name} must stay finite")
        still = [name for name, _ in _regression().named_parameters() if name != "unused" and torch.equal(whole[name], before[name])]
        require(not still, f"must train every parameter that gets a gradient: {', '.join(still)} did not move")
        check_same(_train(optimizer), whole, "two runs with the same seed must end with the same bits")
        slower = _train(optimizer, schedule=Cosine())
        moved = any(not torch.equal(slower[name], tensor) for name, tensor in whole.items())
        require(moved, "must use the rate in its parameter groups, which the loop sets before each step: a schedule has no effect")
        for steps in STOPS:
            with suppress(RunInterruptedError):
                _train(optimizer, Path(folder, "parts"), stop_after=steps)
        promise = "a resumed run must end with the same bits: keep all that the optimizer remembers in its state_dict"
        check_same(_train(optimizer, Path(folder, "parts")), whole, promise)


class _Regression(Objective):
    """The mean brightness of an image, by a linear head."""

    def __init__(self) -> None:
        super().__init__(TinyBackbone(IMAGE))
        self.head = nn.Linear(8, 1)
        self.late = nn.Parameter(torch.zeros(3))
        self.unused = nn.Parameter(torch.zeros(3))

    def parameter_groups(self) -> dict[str, list[dict]]:
        """Matrices, and the rest at half the rate."""
        matrices = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        rest = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        return {"main": [{"params": matrices}, {"params": rest, "lr_scale": 0.5, "weight_decay": 0.0}]}

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return {"images": batch.images, "targets": batch.images.float().mean(dim=(1, 2, 3)) / 255}

    def on_epoch_start(self, context: TrainContext) -> None:
        if context.epoch == EPOCHS // 2:
            context.reset_optimizer_state(self.head)

    def on_before_step(self, phase: str, context: TrainContext) -> None:
        self._uses_late = context.step > NUM_IMAGES // BATCH_SIZE

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        error = self.head(self.backbone.embed(views["images"]))[:, 0] - views["targets"]
        loss = error.square().mean()
        return StepOutput(loss + (self.late - 1).square().mean() if self._uses_late else loss, {})


def _regression() -> _Regression:
    with global_seed(0):
        return _Regression()


def _train(
    optimizer: OptimizerFactory, folder: Path | None = None, *, schedule: Schedule | None = None, stop_after: float = float("inf")
) -> dict[str, Tensor]:
    """Train, or resume; the state that is left."""
    objective = _regression()
    training = TrainingOptions(epochs=EPOCHS, batch_size=BATCH_SIZE, optimizer=optimizer, schedule=schedule or Constant())
    loader = Loader(image_set(IMAGE, NUM_IMAGES), batch_size=BATCH_SIZE, device=CPU)
    try:
        fit(objective, loader, None, training, cpu_context("pretrain", folder, stop_after=stop_after))
    except (PluginError, RunFailedError) as error:
        raise BrokenPromiseError(str(error)) from error
    return state_of(objective)
