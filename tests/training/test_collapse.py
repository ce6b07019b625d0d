"""Planted collapses are found, healthy methods are left alone, and watching changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sslkit import (
    SGD,
    Backbone,
    BackboneError,
    Constant,
    Event,
    FeaturesMeasured,
    Notice,
    Objective,
    Represented,
    RunFailedError,
    RunInterruptedError,
    StepEnd,
    TrainingOptions,
    extract_features,
    fit,
)
from sslkit.data.loader import Loader
from sslkit.storage.identity import state_hash
from sslkit.training import collapse
from sslkit.training.collapse import Watched, measure_collapse
from sslkit.training.fit import FitResult
from sslkit.training.seeds import global_seed
from tests.contract.contexts import make_context
from tests.contract.families import FAMILIES, Family, build, every_family
from tests.contract.miniatures.images import TinyImages, tiny_images
from tests.training.siamese import DINO, Bootstrap, Siamese, SimSiam, VICReg

CPU = torch.device("cpu")
FAST = SGD(lr=0.3, momentum=0.9, nesterov=False, weight_decay=0.0)
SLOW = SGD(lr=0.05, momentum=0.0, nesterov=False, weight_decay=0.0)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure every few steps, which in small fits takes more than a part of the time."""
    monkeypatch.setattr(collapse, "SHARE", 0.1)


def train(
    objective: Objective,
    events: list[Event],
    *,
    images: TinyImages | None = None,
    optimizer: SGD = FAST,
    epochs: int = 24,
    **context: object,
) -> FitResult:
    """Two steps an epoch."""
    loaders = [Loader(images or tiny_images(number, seed=seed), batch_size=32, device=CPU) for number, seed in ((64, 0), (32, 1))]
    training = TrainingOptions(epochs=epochs, batch_size=32, optimizer=optimizer, schedule=Constant())
    surroundings = make_context(**{"emit": events.append, **context})
    return fit(objective, *loaders, training, surroundings, watched=Watched())


def messages(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


METHODS = pytest.mark.parametrize(
    ("method", "measure", "optimizer"),
    [
        (SimSiam, "projection.std", FAST),
        (VICReg, "projection.std", FAST),
        (Bootstrap, "projection.std", FAST),
        (DINO, "prototypes.entropy", SLOW),
    ],
    ids=["no stop-gradient", "no variance term", "teacher without momentum", "no centring"],
)


@METHODS
def test_a_planted_collapse_is_said_once(method: type[Siamese], measure: str, optimizer: SGD):
    events: list[Event] = []
    with global_seed(0):
        objective = method(healthy=False)
    result = train(objective, events, optimizer=optimizer)
    (message,) = messages(events)
    assert message.startswith(f"the representation has collapsed: {measure} is 0.0")
    assert message.endswith("; the usual cause: a fault was planted")
    assert result.alarms == (message,)


@METHODS
def test_a_healthy_method_raises_no_alarm(method: type[Siamese], measure: str, optimizer: SGD):
    events: list[Event] = []
    with global_seed(0):
        objective = method()
    assert train(objective, events, optimizer=optimizer).alarms == ()
    assert messages(events) == []
    values = [event.metrics[f"collapse.{measure}"] for event in events if isinstance(event, FeaturesMeasured)]
    assert len(values) > 5


@every_family
def test_no_family_of_methods_raises_a_false_alarm(family: Family):
    events: list[Event] = []
    loaders = [Loader(tiny_images(number, seed=seed), batch_size=16, device=CPU) for number, seed in ((22, 0), (24, 1))]
    training = TrainingOptions(epochs=6, batch_size=11, optimizer=family.optimizer)
    objective = build(family)
    fit(objective, *loaders, training, make_context(emit=events.append), watched=Watched())
    assert messages(events) == []
    assert all("collapse.features.std" in event.metrics for event in events if isinstance(event, FeaturesMeasured))


def test_images_that_are_all_alike_are_no_collapse():
    events: list[Event] = []
    with global_seed(0):
        objective = SimSiam()
    train(objective, events, images=TinyImages(torch.full((40, 3, 16, 16), 90, dtype=torch.uint8)), epochs=4)
    assert messages(events) == []
    last = [event.metrics for event in events if isinstance(event, FeaturesMeasured)][-1]
    assert last["collapse.features.std"] == pytest.approx(0.0, abs=1e-6)


# --------------------------------------------------------------------------------------------------------- what is measured when


def test_the_same_held_out_images_are_measured_from_the_first_step_to_the_last():
    events: list[Event] = []
    with global_seed(0):
        objective = SimSiam()
    train(objective, events, epochs=8)
    measured = {event.step: event.metrics for event in events if isinstance(event, FeaturesMeasured)}
    steps = sorted(measured)
    assert (steps[0], steps[-1]) == (0, 16)
    assert steps[:-1] == [*range(0, 16, 3)]
    assert set(measured[0]) == {
        f"collapse.{name}.{number}" for name in ("features", "projection") for number in ("std", "cosine", "rankme")
    }
    expected = measure_collapse(objective, tiny_images(32, seed=1).pixels, 7, make_context())
    assert {f"collapse.{name}": pytest.approx(value, rel=1e-4) for name, value in expected.items()} == measured[16]


def test_how_often_depends_on_the_pixels_of_views(monkeypatch: pytest.MonkeyPatch):
    """Two views of 12 x 12 pixels: forward on 32 images of 16 x 16 is 32 * 256 / (3 * 32 * 288) of a step."""
    for share, expected in ((0.1, 3), (0.03, 10)):
        monkeypatch.setattr(collapse, "SHARE", share)
        events: list[Event] = []
        train(SimSiam(), events, epochs=6)
        steps = [event.step for event in events if isinstance(event, FeaturesMeasured)]
        assert steps == [*range(0, 12, expected), 12]


def test_a_long_fit_is_measured_a_hundred_times(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collapse, "SHARE", 100.0)
    monkeypatch.setattr(collapse, "MAX_TIMES", 4)
    events: list[Event] = []
    train(SimSiam(), events, epochs=10)
    assert [event.step for event in events if isinstance(event, FeaturesMeasured)] == [0, 5, 10, 15, 20]


@pytest.mark.parametrize(("heldout", "measured"), [(10, 20), (16, 16), (None, 20)])
def test_without_enough_held_out_images_it_is_those_that_are_trained_on(heldout: int | None, measured: int):
    sizes: list[int] = []

    class Counting(SimSiam):
        def represent(self, images: Tensor) -> Represented:
            sizes.append(len(images))
            return super().represent(images)

    test = None if heldout is None else Loader(tiny_images(heldout, seed=1), batch_size=32, device=CPU)
    train = Loader(tiny_images(20), batch_size=20, device=CPU)
    training = TrainingOptions(epochs=1, batch_size=20, optimizer=SLOW)
    fit(Counting(), train, test, training, make_context(), watched=Watched())
    assert set(sizes) == {measured}


def test_a_handful_of_images_says_nothing():
    events: list[Event] = []
    loader = Loader(tiny_images(15), batch_size=5, device=CPU)
    training = TrainingOptions(epochs=1, batch_size=5, optimizer=SLOW)
    fit(SimSiam(), loader, None, training, make_context(emit=events.append), watched=Watched())
    assert not [event for event in events if isinstance(event, FeaturesMeasured)]


# ----------------------------------------------------------------------------------------------------------- what it leaves alone


@pytest.mark.parametrize("family", ["rotation", "byol", "dino of tokens", "deepcluster", "gan"])
def test_watching_changes_no_weight(family: str):
    hashes = set()
    for watched in (None, Watched(frozenset({0, 1, 2}), lambda backbone: {"drawn": float(torch.rand(())) + len(backbone.feature_info)})):
        objective = build(FAMILIES[family])
        loader = Loader(tiny_images(22), batch_size=8, device=CPU)
        training = TrainingOptions(epochs=2, batch_size=8, optimizer=FAMILIES[family].optimizer)
        fit(objective, loader, Loader(tiny_images(20, seed=1), batch_size=8, device=CPU), training, make_context(), watched=watched)
        hashes.add(state_hash(objective))
    assert len(hashes) == 1


@pytest.mark.parametrize("stops", [[2, 23], pytest.param([24], marks=pytest.mark.slow)])
def test_a_resumed_fit_measures_and_says_the_same(stops: list[int], tmp_path: Path):
    def once(folder: Path, stop: int | None) -> tuple[list[Event], tuple[str, ...]]:
        events: list[Event] = []
        with global_seed(0):
            objective = SimSiam(healthy=False)
        steps = lambda: stop is not None and sum(isinstance(event, StepEnd) for event in events) >= stop  # noqa: E731
        try:
            return events, train(objective, events, folder=folder, should_stop=steps, epochs=16).alarms
        except RunInterruptedError:
            return events, ()

    whole, alarms = once(tmp_path / "whole", None)
    (tmp_path / "parts").mkdir()
    parts: list[Event] = []
    done, again = 0, ()
    for stop in [*stops, None]:
        events, again = once(tmp_path / "parts", None if stop is None else stop - done)
        done = stop or 0
        parts += events
    assert again == alarms
    assert len(alarms) == 1
    assert messages(parts) == messages(whole)
    found = [{event.step: event.metrics for event in events if isinstance(event, FeaturesMeasured)} for events in (parts, whole)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("epoch", "steps"), [(0, 0), (1, 2), (2, 4)])
def test_who_stops_while_quality_is_measured_is_told_the_steps_and_loses_none(epoch: int, steps: int, tmp_path: Path):
    loader = Loader(tiny_images(64), batch_size=32, device=CPU)
    training = TrainingOptions(epochs=2, batch_size=32, optimizer=SLOW, schedule=Constant())
    measured: list[int] = []

    def quality(backbone: Backbone) -> dict[str, float]:
        measured.append(epoch)
        extract_features(backbone, loader, backbone.layer_names[-1:], None, should_stop=lambda: len(measured) == 1)
        return {}

    def once(folder: Path, watched: Watched | None) -> str:
        with global_seed(0):
            objective = SimSiam()
        fit(objective, loader, None, training, make_context(folder=folder, emit=events.append), watched=watched)
        return state_hash(objective)

    events: list[Event] = []
    folders = [tmp_path / name for name in ("stopped", "whole")]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(RunInterruptedError, match=f"^stopped in stage 'pretrain' after {steps} steps$"):
        once(folders[0], Watched(frozenset({epoch}), quality))
    before = len([event for event in events if isinstance(event, StepEnd)])
    resumed = once(folders[0], Watched(frozenset({epoch}), quality))
    assert (before, len([event for event in events if isinstance(event, StepEnd)])) == (steps, 4)
    assert resumed == once(folders[1], None)


# ------------------------------------------------------------------------------------------------------------------ faulty plugins


def test_a_network_that_takes_no_whole_images_is_not_watched():
    class Tiles(SimSiam):
        def represent(self, images: Tensor) -> Represented:
            raise BackboneError("takes tiles of 12 pixels")

    events: list[Event] = []
    train(Tiles(), events, epochs=2)
    assert messages(events) == ["whether the representation collapses is not measured (takes tiles of 12 pixels)"]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ({"features": torch.zeros(32, 4)}, "represent must return a Represented"),
        (Represented(torch.zeros(32, 4)), "embeddings must be a dict"),  # pyright: ignore[reportArgumentType]
        (Represented({"z": torch.zeros(31, 4)}), "embeddings 'z' that represent returns must be floats with a row for each of 32 images"),
        (Represented({}, {"p": torch.zeros(32)}), "assignments 'p' that represent returns must be floats with a row for each of 32 images"),
    ],
)
def test_what_represent_returns_is_checked(value: object, complaint: str):
    class Wrong(SimSiam):
        def represent(self, images: Tensor) -> Represented:
            return value  # pyright: ignore[reportReturnType]

    with pytest.raises(RunFailedError, match=complaint):
        train(Wrong(), [], epochs=1)


def test_features_that_are_not_finite_are_left_out():
    class Infinite(SimSiam):
        def represent(self, images: Tensor) -> Represented:
            return Represented({"z": torch.full((len(images), 3), torch.inf)}, {"p": torch.ones(len(images), 1)})

    events: list[Event] = []
    train(Infinite(), events, epochs=1)
    assert not [event for event in events if isinstance(event, FeaturesMeasured)]
