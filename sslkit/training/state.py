"""Everything about a training loop that must survive an interruption."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sslkit.contract.class_address import provenance_of
from sslkit.contract.errors import ArtifactError, RunFailedError
from sslkit.contract.evaluator import RunContext
from sslkit.contract.events import Notice
from sslkit.contract.objective import Mean, Objective, TrainContext
from sslkit.training.checkpoints import Checkpoint
from sslkit.training.features import BatchSource, extract_features
from sslkit.training.handover import check_schedule, checked_indices, scale_of, scheduled_value
from sslkit.training.loss_scaler import LossScaler
from sslkit.training.optimizer_state import capture_optimizer, restore_optimizer
from sslkit.training.options import TrainingOptions
from sslkit.training.phase_optimizers import build_optimizers, rate_of, set_decays, set_rates
from sslkit.training.representation import Signs
from sslkit.training.seeds import derive_seed, global_generators, make_generator


class Meters:
    """Sums of totals and counts by metric name, in float64 on the host, in the order of the steps no matter when they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._waiting: list[tuple[int, Mapping[str, float | None], Tensor]] = []  # how many are watched; counts, None in values; values

    def add(self, metrics: Mapping[str, Mean], watched: Sequence[Tensor] = ()) -> None:
        """Add one step's means, which may be other ones than the last step's, and 0-dim tensors that :meth:`settle` returns as they are.
        Costs one operation and no host sync.
        """
        counts = {name: None if isinstance(mean.num, Tensor) else mean.num for name, mean in metrics.items()}
        scalars = [part for mean in metrics.values() for part in mean if isinstance(part, Tensor)]
        # An integer stacked with losses would become float32, which cannot count beyond 16 million. Apple's GPUs have no float64.
        exact = [part if part.is_floating_point() or part.device.type == "mps" else part.double() for part in scalars]
        with torch.no_grad():
            values = torch.stack([*watched, *exact])  # a copy because a CUDA graph writes the next step's into the same memory
        self._waiting.append((len(watched), counts, values))

    def settle(self) -> list[list[float]]:
        """Read and sum what waits, with one host sync; return what was watched in each step since the last call."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return []
        values = iter(torch.cat([values for _, _, values in waiting]).tolist())
        watched = []
        for num_watched, counts, _ in waiting:
            watched.append([next(values) for _ in range(num_watched)])
            for name, count in counts.items():
                total, num = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = total + next(values), num + (next(values) if count is None else count)
        return watched

    def read(self) -> dict[str, float]:
        """The means so far, by name; what was never counted is left out."""
        self.settle()
        return {name: total / num for name, (total, num) in self._sums.items() if num}

    def clear(self) -> None:
        """Begin new means."""
        self._sums = {}
        self._waiting = []

    def state(self) -> dict[str, Tensor]:
        """The sums by name, for a checkpoint: (2,) float64, total and count."""
        self.settle()
        return {name: torch.tensor(pair, dtype=torch.float64) for name, pair in self._sums.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Resume from :meth:`state`."""
        self.clear()
        for name, pair in state.items():
            total, num = pair.tolist()
            self._sums[name] = total, num


class TrainState(TrainContext):
    """The state of one fit, which an objective's hooks see as a :class:`TrainContext`.

    Attributes:
        epoch: epochs completed.
        batch: batches of the current epoch completed.
        step: optimizer steps completed.
        order: (M,) int64, the images of the current epoch in order; None between epochs.
        meters: of the training steps since the last logged one.
        rollbacks: how often the fit returned to the beginning of an epoch, to continue at a lower learning rate.
        scalers: of the loss of each phase under float16; empty otherwise.
    """

    def __init__(self, objective: Objective, train: BatchSource, training: TrainingOptions, context: RunContext) -> None:
        check_schedule(training.schedule, training.epochs)
        self.drops_last = training.drops_last(objective)
        if self.drops_last:
            training.check_batch_size(train.num_images)
        self.objective = objective
        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.order: Tensor | None = None
        self.meters = Meters()
        self.optimizers = build_optimizers(objective, training.optimizers_for(objective.phases), lr_factor=training.rate_factor)
        self.rollbacks = 0
        self.scalers = {phase: LossScaler(context.device) for phase in objective.phases if context.autocast is torch.float16}
        self.signs = Signs()
        self._scale = 1.0
        self._train = train
        self._training = training
        self._context = context
        self._generators: dict[str, Generator] = {}
        self._schedules = objective.schedules()
        self.schedule_tensors = {name: torch.zeros((), device=context.device) for name in self._schedules}
        self._schedule: dict[str, float] = {}

    @property
    @override
    def schedule(self) -> Mapping[str, float]:
        return self._schedule

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Images of each batch of the current epoch."""
        images = self._train.num_images if self.order is None else len(self.order)
        return training_batches(images, self._train.batch_size, drop_last=self.drops_last)

    @property
    def num_batches(self) -> int:
        """Batches in the current epoch."""
        return len(self.batch_sizes)

    @property
    def begins_epoch(self) -> bool:
        """Whether an epoch has begun and no batch of it has been seen."""
        return self.order is not None and self.batch == 0

    @property
    def exact_epoch(self) -> float:
        """Epochs completed, including the fraction of the current one."""
        return self.epoch + self.batch / self.num_batches

    @property
    def lr_factor(self) -> float:
        """Multiplies the schedule's learning rate: below 1 after a rollback."""
        return self._training.on_nan.lr_factor**self.rollbacks

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group: what is logged."""
        return rate_of(next(iter(self.optimizers.values())).param_groups[0], self._scale)

    @property
    def progress(self) -> float:
        """The completed fraction of the whole fit, in [0, 1]."""
        return self.exact_epoch / self._training.epochs

    @property
    def ends_with_next_step(self) -> bool:
        """Whether the next step is the last of the fit."""
        return self.batch + 1 == self.num_batches and self.epoch + 1 == self._training.epochs

    @override
    def generator(self, purpose: str) -> Generator:
        return self._generator(f"objective/{purpose}", torch.device("cpu"))  # apart from the loop's own

    def device_generator(self, purpose: str) -> Generator:
        """As ``generator``, on the compute device."""
        return self._generator(purpose, self._context.device)

    @override
    def embed(self, layer: str) -> Tensor:
        return extract_features(self.objective.exported_backbone(), self._train, [layer], self._context.autocast)[layer]

    @override
    def reset_optimizer_state(self, module: nn.Module) -> None:
        for optimizer in self.optimizers.values():
            for parameter in module.parameters():
                optimizer.state.pop(parameter, None)

    def begin_epoch(self) -> None:
        """Let the objective prepare, then choose the order of the epoch's images. Not repeated when an epoch is resumed."""
        self.update_schedule()
        with torch.no_grad():
            self.objective.on_epoch_start(self)
            indices = self.objective.epoch_indices(self)
        num_images = self._train.num_images
        every = torch.arange(num_images)
        indices = every if indices is None else checked_indices(self.objective, indices, num_images, self._context.stage)
        self.order = indices[torch.randperm(len(indices), generator=self._generator("order", torch.device("cpu")))]
        if not self.num_batches:
            what = f"stage {self._context.stage!r}: {provenance_of(type(self.objective))}: epoch_indices chose less than a full batch"
            raise RunFailedError(what, found=len(indices), allowed=f"{self._train.batch_size} or more")
        self.order = self.order[: sum(self.batch_sizes)]
        self.batch = 0

    def end_epoch(self) -> None:
        """Count the epoch."""
        self.order = None
        self.batch = 0
        self.epoch += 1

    def update_schedule(self) -> None:
        """Set learning rates and the objective's schedules to the current progress."""
        self._scale = scale_of(self._training.schedule, self.exact_epoch, self._training.epochs) * self.lr_factor
        for optimizer in self.optimizers.values():
            set_rates(optimizer, self._scale)
            set_decays(optimizer, self.progress)
        stage, progress = self._context.stage, self.progress
        self._schedule = {
            name: scheduled_value(self.objective, name, value(progress), progress, stage) for name, value in self._schedules.items()
        }
        for name, value in self._schedule.items():
            self.schedule_tensors[name].fill_(value)

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The whole state, as tensors and JSON values."""
        tensors = {f"objective.{name}": tensor for name, tensor in self.objective.state_dict().items() if not self._is_frozen(name)}
        tensors |= {f"generator.{name}": generator.get_state() for name, generator in self._generators.items()}
        tensors |= {f"meter.{name}": pair for name, pair in self.meters.state().items()}
        tensors |= {f"random.{generator.device.type}": generator.get_state() for generator in global_generators(self._context.device)}
        if self.order is not None:
            tensors["order"] = self.order
        optimizers, own = self.capture_optimizers()
        tensors |= own
        counters = {"epoch": self.epoch, "batch": self.batch, "step": self.step, "rollbacks": self.rollbacks}
        counters["num_images"] = self._train.num_images
        scalers = {phase: scaler.state() for phase, scaler in self.scalers.items()}
        return tensors, {"counters": counters, "optimizers": optimizers, "scalers": scalers, "signs": self.signs.state()}

    def capture_optimizers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The optimizers' part of it; a ``PluginError`` where one keeps what cannot be saved."""
        captured = {phase: capture_optimizer(optimizer, f"optimizer.{phase}") for phase, optimizer in self.optimizers.items()}
        tensors = {name: tensor for _, own in captured.values() for name, tensor in own.items()}
        return {phase: plain for phase, (plain, _) in captured.items()}, tensors

    def restore(self, checkpoint: Checkpoint) -> None:
        """Resume from what :meth:`capture` returned; an ``ArtifactError`` where it belongs to another model or other data."""
        try:
            self._restore(*checkpoint)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ArtifactError(
                f"{checkpoint.path}: is not a checkpoint of this fit ({reason})", fix="remove it to begin from the one before"
            ) from error

    def _restore(self, path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        counters = state["counters"]
        if counters["num_images"] != self._train.num_images:
            raise ArtifactError(
                f"{path}: the number of training images changed", found=self._train.num_images, allowed=str(counters["num_images"])
            )
        frozen = {name: tensor for name, tensor in self.objective.state_dict().items() if self._is_frozen(name)}
        try:
            self.objective.load_state_dict({**_below(tensors, "objective."), **frozen})
        except RuntimeError as error:
            raise ArtifactError(f"{path}: does not fit the model ({str(error).splitlines()[-1].strip()})") from error
        for phase, optimizer in self.optimizers.items():
            restore_optimizer(optimizer, state["optimizers"][phase], tensors, self._context.device)
        for phase in self.scalers.keys() & state["scalers"].keys():  # there are none in what another precision has written
            self.scalers[phase].restore(state["scalers"][phase])
        self._restore_random(tensors)
        self.meters.restore(_below(tensors, "meter."))
        self.epoch, self.batch, self.step = (int(counters[name]) for name in ("epoch", "batch", "step"))
        self.rollbacks = int(counters["rollbacks"])
        self.signs = Signs(**state["signs"])
        self.order = tensors.get("order")
        if not 0 <= self.epoch <= self._training.epochs or not 0 <= self.batch <= self.num_batches:
            raise ValueError(f"epoch {self.epoch}, batch {self.batch}")

    def _is_frozen(self, name: str) -> bool:
        return name.startswith(tuple(f"{module}." for module in self.objective.frozen))

    def _restore_random(self, tensors: Mapping[str, Tensor]) -> None:
        self._generators.clear()  # after a rollback to before one was first used, it begins from its seed again
        device, written_on = self._context.device, _below(tensors, "random.")
        for name, value in _below(tensors, "generator.").items():
            purpose, _, kind = name.rpartition("@")
            if kind in ("cpu", device.type):
                self._generator(purpose, torch.device("cpu") if kind == "cpu" else device).set_state(value)
        generators = {generator.device.type: generator for generator in global_generators(device)}
        for kind in generators.keys() & written_on.keys():
            generators[kind].set_state(written_on[kind])
        if generators.keys() != written_on.keys():
            other = next((kind for kind in written_on if kind != "cpu"), "cpu")
            message = f"the checkpoint was written on {other}: what is drawn on {device.type} restarts from its seed"
            self._context.emit(Notice(stage=self._context.stage, message=message))

    def _generator(self, purpose: str, device: torch.device) -> Generator:
        key = f"{purpose}@{device.type}"
        if key not in self._generators:
            seed = derive_seed(self._context.seed, self._context.stage, self._context.part, purpose)
            self._generators[key] = make_generator(seed, device)
        return self._generators[key]


@lru_cache(maxsize=16)
def training_batches(num_images: int, batch_size: int, *, drop_last: bool = False) -> tuple[int, ...]:
    """The sizes of an epoch's batches in training: all are full but the last, which ``drop_last`` leaves out.

    Where a single image would be left for it, that image joins the batch before: BatchNorm has no statistics of one value.
    """
    full, rest = divmod(num_images, batch_size)
    sizes = (batch_size,) * full
    if drop_last or not rest:
        return sizes
    return (*sizes[:-1], batch_size + 1) if full and rest == 1 else (*sizes, rest)


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
