import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

import sslkit.training.fit as fit_module
from sslkit import SGD, Augment, BackboneError, Batch, MultiStep, Objective, Step, StepEnd, StepOutput, TrainingOptions
from sslkit.contract.events import Event
from sslkit.training.seeds import derive_seed, make_generator
from tests.contract.miniatures.images import tiny_images
from tests.training.brightness import IMAGES, PLAIN_SGD, Brightness, assert_same_state, logged, run, short, watched

# ------------------------------------------------------------------------------------------------- steps against plain torch


def naive_orders(epochs: int) -> list[list[Tensor]]:
    """The batches of each epoch, as indices."""
    generator = make_generator(derive_seed(3, "pretrain", "", "order"))
    orders = [torch.randperm(22, generator=generator) for _ in range(epochs)]
    return [[order[:8], order[8:16], order[16:]] for order in orders]


def naive_fit(
    objective: Brightness, groups: list[dict], learning_rate: Callable[[float], float], pixels: Callable[[Tensor], Tensor]
) -> list[float]:
    """The loop that everybody writes; returns the losses."""
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True)
    base = [group["lr"] for group in optimizer.param_groups]
    losses = []
    objective.train()
    for epoch, batches in enumerate(naive_orders(3)):
        for i, indices in enumerate(batches):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * learning_rate(epoch + i / 3)
            images = pixels(indices)
            features = objective.backbone.extract((images / 255 - 0.5) / 0.25, ["body"])["body"].mean(dim=(2, 3))
            loss = (objective.head(features)[:, 0] - images.float().mean(dim=(1, 2, 3)) / 255).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def plain_pixels(indices: Tensor) -> Tensor:
    return IMAGES.read(indices.tolist())


def test_steps_equal_a_plain_torch_loop():
    ours, theirs = Brightness(), Brightness()
    events: list[Event] = []
    result = run(ours, short(schedule=MultiStep(milestones=(1.5,), gamma=0.1)), log_every=1, emit=events.append)
    losses = naive_fit(theirs, [{"params": theirs.parameters()}], lambda epoch: 0.1 if epoch >= 1.5 else 1.0, plain_pixels)
    assert result.steps == len(losses) == 9
    assert logged(events) == losses
    assert logged(events, "lr") == pytest.approx([0.1] * 5 + [0.01] * 4)
    assert_same_state(ours, theirs)


def test_augmentation_is_drawn_from_a_generator_of_its_own():
    generator = make_generator(derive_seed(3, "pretrain", "", "augment"))

    def naive_augment(indices: Tensor) -> Tensor:
        images = plain_pixels(indices)
        top, left = torch.randint(0, 5, (2, len(images)), generator=generator)
        flips = torch.rand(len(images), generator=generator) < 0.5
        padded = nn.functional.pad(images, [2] * 4)
        crops = [image[:, t : t + 16, x : x + 16] for image, t, x in zip(padded, top, left, strict=True)]
        return torch.stack([crop.flip(2) if flip else crop for crop, flip in zip(crops, flips, strict=True)])

    ours, theirs = Brightness(), Brightness()
    run(ours, short(augment=Augment(crop_padding=2, horizontal_flip=True)))
    naive_fit(theirs, [{"params": theirs.parameters()}], lambda _: 1.0, naive_augment)
    assert_same_state(ours, theirs)


class Grouped(Brightness):
    def parameter_groups(self) -> dict[str, list[dict]]:
        return {
            "main": [
                {"params": list(self.backbone.parameters()), "lr_scale": 0.5},
                {"params": list(self.head.parameters()), "weight_decay": 0.2},
            ]
        }


def test_groups_have_their_own_rate_and_weight_decay():
    ours, theirs = Grouped(), Grouped()
    run(ours, short(schedule=MultiStep(milestones=(1,), gamma=0.1)))
    groups = [{"params": theirs.backbone.parameters(), "lr": 0.05}, {"params": theirs.head.parameters(), "weight_decay": 0.2}]
    naive_fit(theirs, groups, lambda epoch: 0.1 if epoch >= 1 else 1.0, plain_pixels)
    assert_same_state(ours, theirs)


class TwoPhases(Brightness):
    """Each phase's gradients reach the other phase's parameters too."""

    phases = ("head", "backbone")
    heldout_phase = "head"

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        assert all(parameter.grad is None for parameter in self.parameters())
        return super().forward(views, step)

    def parameter_groups(self) -> dict[str, list[dict]]:
        return {phase: [{"params": list(self.get_submodule(phase).parameters())}] for phase in self.phases}


def test_each_phase_has_its_optimizer_and_starts_without_gradients():
    ours, theirs = TwoPhases(), TwoPhases()
    head_sgd = SGD(lr=0.3, momentum=0.0, nesterov=False, weight_decay=0.0)
    events = watched(ours, short(optimizer={"backbone": PLAIN_SGD, "head": head_sgd}), log_every=9)
    optimizers = {
        "head": torch.optim.SGD(theirs.head.parameters(), lr=0.3, fused=True),
        "backbone": torch.optim.SGD(theirs.backbone.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    }
    theirs.train()
    for indices in [batch for batches in naive_orders(3) for batch in batches]:
        for phase in ("head", "backbone"):
            theirs.zero_grad(set_to_none=True)
            batch = Batch(plain_pixels(indices), indices)
            theirs(theirs.make_views(batch, Generator(), train=True), Step(phase)).loss.backward()
            optimizers[phase].step()
    assert_same_state(ours, theirs)
    step = next(event for event in events if isinstance(event, StepEnd) and event.metrics)
    assert {"head_loss", "backbone_loss", "head_too_bright", "backbone_too_bright", "lr"} < set(step.metrics)


def test_channels_last_changes_the_layout_and_nothing_else():
    plain, channels_last = Brightness(), Brightness()
    run(plain)
    run(channels_last, channels_last=True)
    for name, parameter in channels_last.named_parameters():
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), name
        torch.testing.assert_close(parameter, dict(plain.named_parameters())[name], rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------- clipping


def test_a_clipped_step_is_no_longer_than_the_learning_rate_times_the_limit():
    """One step of plain SGD moves by lr x the norm of the gradient; clipped, by lr x the limit."""
    moved = []
    for limit in (None, 1e-3):
        objective = Brightness()
        before = copy.deepcopy(objective.state_dict())
        sgd = SGD(lr=0.5, momentum=0.0, nesterov=False, weight_decay=0.0)
        run(objective, short(epochs=1, batch_size=22, optimizer=sgd, clip_grad_norm=limit))
        squares = [(parameter.detach() - before[name]).square().sum() for name, parameter in objective.named_parameters()]
        moved.append(math.sqrt(sum(map(float, squares))))
    assert moved[1] == pytest.approx(0.5 * 1e-3, rel=1e-3)
    assert moved[0] > 10 * moved[1]


def test_the_norm_before_clipping_is_logged():
    events = watched(Brightness(), TrainingOptions(epochs=1, batch_size=22, clip_grad_norm=1e-3), log_every=1)
    (norm,) = logged(events, "gradient_norm")
    assert norm > 1e-2


class Measured(Brightness):
    """Measures the gradients of each step itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def on_after_step(self, phase, context) -> None:
        squares = [parameter.grad.square().sum() for parameter in self.parameters() if parameter.grad is not None]
        self.norms.append(math.sqrt(sum(map(float, squares))))


def test_the_norm_of_the_logged_step_is_logged():
    objective = Measured()
    events = watched(objective, log_every=2)
    assert logged(events, "gradient_norm") == pytest.approx([objective.norms[step - 1] for step in (2, 4, 6, 8, 9)])


def test_clipped_the_norm_is_a_mean_like_other_metrics():
    objective = Measured()
    events = watched(objective, short(clip_grad_norm=1e9), log_every=2)  # which clips nothing
    pairs = [objective.norms[step : step + 2] for step in (0, 2, 4, 6, 8)]
    assert logged(events, "gradient_norm") == pytest.approx([sum(pair) / len(pair) for pair in pairs])


# --------------------------------------------------------------------------------------------------------------- randomness


def test_the_global_random_state_is_neither_used_nor_changed():
    trained = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trained.append(Brightness(dropout=0.5))
        run(trained[-1])
        assert torch.equal(torch.get_rng_state(), before)
    assert_same_state(*trained)


@pytest.mark.parametrize("changed", [{"seed": 4}, {"stage": "other"}, {"part": "k20"}])
def test_seed_stage_and_part_make_other_draws(changed: dict):
    one, two = Brightness(), Brightness()
    run(one)
    run(two, **changed)
    assert not torch.equal(one.head.weight, two.head.weight)


def test_measuring_does_not_change_training():
    quiet, measured = Brightness(dropout=0.5), Brightness(dropout=0.5)
    run(quiet)
    run(measured, heldout=tiny_images(10, seed=1), evaluate_every=1)
    assert_same_state(quiet, measured)


# ----------------------------------------------------------------------------------------------------------------- compiling


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as on a GPU, but run the graph as it is: a CPU would compile for minutes."""
    torch.compiler.reset()
    monkeypatch.setattr(fit_module, "compile_objective", lambda objective, **_: torch.compile(objective, backend="eager", fullgraph=True))


@pytest.mark.slow
@pytest.mark.usefixtures("traced_only")
def test_compiling_changes_nothing():
    eager, compiled = Brightness(dropout=0.5), Brightness(dropout=0.5)
    assert run(eager, heldout=tiny_images(4)) == run(compiled, heldout=tiny_images(4), compile=True)
    assert_same_state(eager, compiled)


def test_only_full_batches_of_training_are_compiled(monkeypatch: pytest.MonkeyPatch):
    torch.compiler.reset()
    graphs, calls = [], []

    def listen(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    def compile_objective(objective: Objective, **_: bool) -> Callable:
        compiled = torch.compile(objective, backend=listen, fullgraph=True)

        def call(views: dict[str, Tensor], *arguments: object) -> StepOutput:
            calls.append((objective.training, len(views["images"])))
            return compiled(views, *arguments)

        return call

    monkeypatch.setattr(fit_module, "compile_objective", compile_objective)
    run(Brightness(), heldout=tiny_images(20), compile=True)  # batches of 8, 8, 6 and, held out, 8, 8, 4
    assert set(calls) == {(True, 8)}
    assert len(graphs) == 1


class SeenTwice(Brightness):
    """First without gradient, as a teacher that shares its weights sees, then with it."""

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        with torch.no_grad():
            super().forward(views, step)
        return super().forward(views, step)


def test_weights_that_autocast_saw_without_gradient_get_one_later():
    """Before torch 2.11 the cast weights of the first pass were used in the second, and nothing was trained."""
    once, twice = Brightness(), SeenTwice()
    run(once, autocast=torch.bfloat16)
    run(twice, autocast=torch.bfloat16)
    for (name, one), two in zip(once.named_parameters(), twice.parameters(), strict=True):
        assert torch.equal(one, two), name


class Unscaled(Brightness):
    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        views = super().make_views(batch, generator, train=train)
        return {**views, "images": views["images"].float()}


@pytest.mark.usefixtures("traced_only")
@pytest.mark.parametrize("compiled", [False, True])
def test_floats_from_0_to_255_do_not_slip_through(compiled: bool):
    with pytest.raises(BackboneError, match=r"float images must lie in \[0, 1\]; found '.*25\d'; pass uint8, or divide by 255"):
        run(Unscaled(), TrainingOptions(epochs=1, batch_size=11), compile=compiled)  # full batches alone: a smaller one is never compiled
