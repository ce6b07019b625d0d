"""What a training does to its parameter groups before each step: rates scaled to the batch, weight decay that moves."""

import math
from typing import Any

import pytest

from sslkit import LARS, SGD, AdamW, Constant, Cosine, OptimizerFactory, PluginError, TrainingOptions
from sslkit.training.optimizers import Adam
from sslkit.training.phase_optimizers import build_optimizers
from tests.contract.families import FAMILIES, build
from tests.training.brightness import Brightness, logged, run, short, watched


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 8 / 256), ("sqrt", math.sqrt(8 / 256))])
def test_the_rate_is_scaled_from_256_images_to_the_batch(rule: Any, factor: float):
    events = watched(Brightness(), short(optimizer=SGD(lr=0.8), lr_scaling=rule, schedule=Cosine(warmup_epochs=1)), log_every=1)
    schedule = Cosine(warmup_epochs=1)
    assert logged(events, "lr") == pytest.approx([0.8 * factor * schedule.scale(step / 3, 3) for step in range(9)])


def test_a_scaled_rate_is_said_for_each_optimizer():
    assert TrainingOptions(optimizer=SGD(lr=0.3)).rate_notes == []
    one = TrainingOptions(optimizer=SGD(lr=0.3), lr_scaling="linear", batch_size=512)
    assert one.rate_notes == ["optimizer.lr: 0.3 becomes 0.6 by linear scaling from 256 to 512 images a step"]
    two = TrainingOptions(optimizer={"one": SGD(lr=0.3), "two": AdamW(lr=1e-3)}, lr_scaling="sqrt", batch_size=1024)
    assert [note.partition(" by ")[0] for note in two.rate_notes] == [
        "optimizer.one.lr: 0.3 becomes 0.6",
        "optimizer.two.lr: 0.001 becomes 0.002",
    ]


class Recorded(Brightness):
    """Three groups, one with a decay of its own and one that moves its own; remembers the decays of all."""

    def __init__(self) -> None:
        super().__init__()
        self.decays: list[list[float]] = []

    def parameter_groups(self) -> dict[str, list[dict]]:
        stem, *rest = self.backbone.parameters()
        own = [{"params": [stem], "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.2, "final_weight_decay": 0.0}]
        return {"main": [{"params": list(self.head.parameters()), "lr_scale": 0.5}, *own]}

    def on_before_step(self, phase, context) -> None:
        self.decays.append([group["weight_decay"] for group in context.optimizers["main"].param_groups])


def half_cosine(first: float, last: float, step: int) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * step / 9)) / 2


@pytest.mark.parametrize("factory", [SGD, AdamW, Adam, LARS])
def test_weight_decay_moves_along_half_a_cosine_except_where_a_group_has_its_own(factory: type[Any]):
    objective = Recorded()
    run(objective, short(optimizer=factory(weight_decay=0.04, final_weight_decay=0.4, exclude_norm_and_bias=False)))
    for step, found in enumerate(objective.decays):
        assert found == pytest.approx([half_cosine(0.04, 0.4, step), 0.3, half_cosine(0.2, 0.0, step)])


def test_what_is_excluded_stays_without_weight_decay_and_keeps_its_rate_scale():
    optimizer = build_optimizers(Recorded(), {"main": SGD(lr=0.1, final_weight_decay=0.4, exclude_norm_and_bias=True)}, lr_factor=2.0)[
        "main"
    ]
    assert [group["base_lr"] for group in optimizer.param_groups[:2]] == [0.1, 0.1]  # of the head: half of twice the rate
    assert [(group["weight_decay"], group.get("final_weight_decay")) for group in optimizer.param_groups[:2]] == [(5e-4, 0.4), (0.0, None)]
    assert all(parameter.ndim > 1 for parameter in optimizer.param_groups[0]["params"])


def test_a_phase_may_move_its_weight_decay_alone():
    objective = build(FAMILIES["gan"])
    optimizers: dict[str, OptimizerFactory] = {"discriminator": AdamW(final_weight_decay=0.5), "generator": AdamW(weight_decay=0.1)}
    seen: list[tuple[float, float]] = []
    objective.on_before_step = lambda _phase, context: seen.append(
        tuple(context.optimizers[name].param_groups[0]["weight_decay"] for name in optimizers)
    )
    run(objective, TrainingOptions(epochs=3, batch_size=8, optimizer=optimizers, schedule=Constant()))
    assert seen[::2] == [pytest.approx((half_cosine(0.05, 0.5, step), 0.1)) for step in range(9)]


@pytest.mark.parametrize("key", ["weight_decay", "final_weight_decay"])
def test_a_negative_decay_of_a_group_is_refused(key: str):
    class Wrong(Brightness):
        def parameter_groups(self) -> dict[str, list[dict]]:
            return {"main": [{"params": list(self.parameters()), key: -1.0}]}

    with pytest.raises(PluginError, match=rf"parameter_groups has a {key} that is no rate; found -1\.0; allowed: 0 or more$"):
        run(Wrong())
