import math

import pytest

from sslkit import Constant, Cosine, MultiStep, Schedule
from sslkit.training.schedules import warmup


@pytest.mark.parametrize(
    ("epoch", "scale"),
    [(0, 1.0), (29.99, 1.0), (30, 0.2), (59.99, 0.2), (60, 0.04), (79.99, 0.04), (80, 0.008), (100, 0.008)],
)
def test_step_drops_at_its_milestones(epoch: float, scale: float):
    assert MultiStep(milestones=(30, 60, 80), gamma=0.2).scale(epoch, 100) == pytest.approx(scale, rel=1e-12)


def test_step_does_not_depend_on_the_length_of_the_run():
    assert MultiStep(milestones=(3,)).scale(5, 10) == MultiStep(milestones=(3,)).scale(5, 1000) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("epoch", "scale"), [(0, 1.0), (25, (1 + math.sqrt(0.5)) / 2), (50, 0.5), (75, (1 - math.sqrt(0.5)) / 2), (100, 0.0)]
)
def test_cosine_has_its_closed_form(epoch: float, scale: float):
    assert Cosine().scale(epoch, 100) == pytest.approx(scale, abs=1e-12)
    assert Cosine(final=0.1).scale(epoch, 100) == pytest.approx(0.1 + 0.9 * scale, abs=1e-12)


def test_cosine_starts_where_its_warmup_ends():
    schedule = Cosine(warmup_epochs=10)
    assert schedule.scale(10, 110) == 1.0
    assert schedule.scale(60, 110) == pytest.approx(0.5)
    assert schedule.scale(110, 110) == pytest.approx(0.0, abs=1e-12)


def test_cosine_stays_at_its_end():
    assert Cosine(final=0.25).scale(120, 100) == pytest.approx(0.25)
    assert Cosine(warmup_epochs=5).scale(5, 5) == 0.0


@pytest.mark.parametrize("schedule", [MultiStep(milestones=(50,), warmup_epochs=4), Cosine(warmup_epochs=4), Constant(warmup_epochs=4)])
def test_warmup_rises_linearly_from_zero(schedule: MultiStep | Cosine | Constant):
    assert [schedule.scale(epoch, 100) for epoch in (0, 1, 2, 3, 4)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_warmup_multiplies_the_steps_that_fall_into_it():
    assert MultiStep(milestones=(2,), gamma=0.5, warmup_epochs=4).scale(3, 10) == pytest.approx(0.75 * 0.5)


def test_without_warmup_the_rate_is_constant():
    assert [warmup(epoch, 0) for epoch in (0, 1)] == [1.0, 1.0]
    assert [Constant().scale(epoch, 10) for epoch in (0, 3.5, 10)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "notes"),
    [
        (Cosine(), []),
        (Cosine(warmup_epochs=9), []),
        (Cosine(warmup_epochs=10), ["warmup_epochs: 10 of 10 epochs: the base learning rate is never reached"]),
        (Constant(warmup_epochs=12.5), ["warmup_epochs: 12.5 of 10 epochs: the base learning rate is never reached"]),
        (MultiStep(milestones=(3, 9.5)), []),
        (MultiStep(milestones=(3, 10, 60)), ["milestones: 10, 60 of 10 epochs change nothing"]),
        (
            MultiStep(milestones=(30,), warmup_epochs=20),
            ["warmup_epochs: 20 of 10 epochs: the base learning rate is never reached", "milestones: 30 of 10 epochs change nothing"],
        ),
    ],
)
def test_what_lies_beyond_the_end_is_noted(schedule: Schedule, notes: list[str]):
    assert list(schedule.notes(10)) == notes
