"""Training in float16: against torch's own scaler, on a CPU, which computes float16 too."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkit import LARS, SGD, Adam, AdamW, DivergedError, FitStart, OnNan, OptimizerFactory, StepEnd, StepOutput
from sslkit.contract import runtime
from sslkit.contract.runtime import Runtime
from sslkit.training import loss_scaler
from sslkit.training.loss_scaler import LossScaler
from tests.contract.families import FAMILIES, build
from tests.training.brightness import CPU, Brightness, interrupt, logged, run, short, watched

HALF: dict[str, Any] = {"autocast": torch.float16}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (5,), (2, 2))]


def loss_of(weights: list[nn.Parameter], step: int) -> Tensor:
    """Its gradient overflows in some steps, whatever the scale, and in others for the first scale alone."""
    loss = sum((weight.square().sum() for weight in weights[:2]), torch.zeros(()))
    factor = {2: math.inf, 3: 1e34, 6: math.nan}.get(step, 1.0)
    return loss * factor


@pytest.mark.parametrize(
    "factory",
    [SGD(lr=0.01), SGD(lr=0.01, momentum=0.0, nesterov=False), AdamW(lr=0.01), Adam(lr=0.01), LARS(lr=0.1)],
    ids=lambda factory: type(factory).__name__,
)
def test_it_does_what_torchs_scaler_does(factory: OptimizerFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss_scaler, "INTERVAL", 4)
    ours, theirs = parameters(), parameters()
    scaler, reference = LossScaler(CPU), torch.amp.GradScaler("cpu", growth_interval=4)
    optimizer, plain = factory.build([{"params": ours}]), factory.build([{"params": theirs}])
    scales = []
    for step in range(14):
        optimizer.zero_grad()
        plain.zero_grad()
        scaler.scaled(loss_of(ours, step)).backward()
        scaler.unscale(optimizer)
        scaler.step(optimizer)
        reference.scale(loss_of(theirs, step)).backward()
        reference.step(plain)
        reference.update()
        assert float(scaler.scale) == reference.get_scale()
        scales.append(float(scaler.scale))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    assert len(set(scales)) > 2
    assert all(weight.isfinite().all() for weight in ours)
    again = LossScaler(CPU)
    again.restore(scaler.state())
    assert again.state() == scaler.state()


def test_an_optimizer_without_gradients_makes_its_step():
    weights = parameters()
    optimizer, scaler = SGD().build([{"params": weights}]), LossScaler(CPU)
    scaler.unscale(optimizer)
    scaler.step(optimizer)
    assert scaler.state() == [2.0**16, 1.0]


def test_a_training_in_float16_ends_near_one_in_float32():
    objectives = [Brightness(), Brightness()]
    half, full = (watched(objective, short(), log_every=3, **options) for objective, options in zip(objectives, (HALF, {}), strict=True))
    assert logged(half) == pytest.approx(logged(full), rel=0.02)
    assert logged(half) != logged(full)
    assert logged(half, "gradient_norm") == pytest.approx(logged(full, "gradient_norm"), rel=0.05)
    assert logged(half, "loss_scale") == [2.0**16] * 3
    for one, other in zip(*(objective.parameters() for objective in objectives), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=5e-3)


class Overflowing(Brightness):
    """A gradient that float16 cannot hold unless it is scaled by little.

    Args:
        slope: of the head's bias, added to that of the loss.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.biases: list[float] = []

    def forward(self, views, step) -> StepOutput:
        output = super().forward(views, step)
        nothing = (self.head.bias - self.head.bias.detach()).sum()
        if self.training:
            nothing.register_hook(lambda gradient: (self.slope * gradient).half().float())
        return output._replace(loss=output.loss + nothing)

    def on_after_step(self, phase, context) -> None:
        self.biases.append(self.head.bias.item())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_step_that_overflows_is_skipped_and_is_no_divergence(clip: float | None):
    objective = Overflowing(4.0)
    first = objective.head.bias.item()
    events = watched(objective, short(epochs=2, clip_grad_norm=clip), log_every=1, **HALF)
    assert logged(events, "loss_scale") == [2.0**15, 2.0**14, *[2.0**13] * 4]
    assert objective.biases[:3] == [first] * 3
    assert len(set(objective.biases)) == 4
    norms = [event.metrics.get("gradient_norm") for event in events if isinstance(event, StepEnd)]
    assert norms[:3] == [None] * 3
    assert all(norm is not None and 3 < norm < 6 for norm in norms[3:])
    means = logged(watched(Overflowing(4.0), short(epochs=2, clip_grad_norm=1.0), log_every=6, **HALF), "gradient_norm")
    assert clip is None or means == [pytest.approx(sum(norms[3:]) / 3)], "a mean over the steps that were made"


def test_a_gradient_that_is_never_finite_is_divergence_after_a_while():
    with pytest.raises(DivergedError, match=r"at step 27: loss 0\.\d+, (weight norm \S+, )?loss scale 0\.0004883, learning rate"):
        run(Overflowing(math.inf), short(epochs=10), log_every=1000, **HALF)


def test_a_loss_that_is_not_finite_is_divergence_at_once():
    with pytest.raises(DivergedError, match=r"at step 2: loss nan, .*loss scale 3\.277e\+04"):
        run(Brightness(poisoned_step=2), log_every=1, **HALF)


def test_a_rollback_returns_to_the_scale_of_its_point(tmp_path: Path):
    class Poisoned(Overflowing):
        def on_before_step(self, phase, context) -> None:
            self.slope = 4.0 if context.step < 6 else math.inf if context.rollbacks == 0 else 1.0

    training = short(on_nan=OnNan(retries=1), epochs=30)
    objective = Poisoned(4.0)
    events = watched(objective, training, log_every=3, folder=tmp_path, **HALF)
    assert [event.step for event in events if isinstance(event, FitStart)] == [0, 27]
    assert logged(events, "loss_scale")[-1] == 2.0**-8, "after 24 steps that were skipped, those of the last epoch but one"
    assert all(tensor.isfinite().all() for tensor in objective.state_dict().values())


def test_each_phase_has_a_scale_of_its_own():
    objective = build(FAMILIES["gan"])
    forward = objective.forward
    steep = next(iter(objective.parameter_groups()["generator"][0]["params"]))

    def overflowing(views, step) -> StepOutput:
        output = forward(views, step)
        nothing = (steep - steep.detach()).sum()
        if step.phase == "generator":
            nothing.register_hook(lambda gradient: gradient * math.inf)
        return output._replace(loss=output.loss + nothing)

    objective.forward = overflowing
    before = steep.detach().clone()
    events = watched(objective, short(epochs=1), log_every=1, **HALF)
    assert logged(events, "discriminator_loss_scale") == [2.0**16] * 3
    assert logged(events, "generator_loss_scale") == [2.0**15, 2.0**14, 2.0**13]
    assert torch.equal(steep, before)


def test_what_another_precision_wrote_is_resumed_with_a_new_scale(tmp_path: Path):
    interrupt(4, Brightness(), folder=tmp_path)
    events = watched(Brightness(), folder=tmp_path, log_every=1, **HALF)
    assert logged(events, "loss_scale") == [2.0**16] * 5
    interrupt(1, Brightness(), folder=tmp_path / "back", **HALF)
    assert run(Brightness(), folder=tmp_path / "back").steps == 9


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("cuda", (9, 0), torch.bfloat16),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (7, 5), torch.float16),
        ("cuda", (7, 0), torch.float16),
        ("cuda", (6, 1), None),
        ("mps", None, torch.float16),
        ("cpu", None, None),
    ],
)
def test_the_precision_that_is_chosen(kind: str, capability: Any, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(runtime, "cpu_flags", frozenset)
    device = torch.device(kind)
    assert Runtime().resolve_autocast(device) == expected
    assert Runtime(precision="float16").resolve_autocast(device) == torch.float16
    assert Runtime(precision="bfloat16").resolve_autocast(device) == torch.bfloat16
    assert Runtime(precision="tf32").resolve_autocast(device) is None
