import pytest
from torch import nn

from sslkit import (
    Backbone,
    Dataset,
    Evaluator,
    ImageSet,
    Objective,
    Observer,
    OptimizerFactory,
    PluginError,
    PretextTask,
    Schedule,
    load_catalog,
)
from sslkit.catalog.catalog import KINDS
from sslkit.contract.checks import _overridable
from sslkit.data.cache import OpenedDataset
from sslkit.training.handover import check_objective
from tests.contract.families import FAMILIES
from tests.data.test_validation import Foreign, Lazy
from tests.evaluators.labeled import network

CONTRACT_CLASSES = (Backbone, Dataset, Evaluator, ImageSet, Objective, Observer, OptimizerFactory, PretextTask, Schedule)
EVENTS = ["on_epoch_start", "on_before_step", "on_after_step"]
CONTRACTS = {contract.__name__: contract for contract in CONTRACT_CLASSES}


class Quiet(Objective):
    """Learns nothing."""

    def make_views(self, batch, generator, *, train):
        return {}

    def forward(self, views, step):
        raise NotImplementedError


def _method(_self: object) -> None:
    """Of any name."""


@pytest.mark.parametrize(
    ("contract", "name", "meant"),
    [
        ("Objective", "on_after_stp", "on_after_step"),
        ("Objective", "on_step_end", "on_after_step"),
        ("Objective", "on_epoch_begin", "on_epoch_start"),
        ("Objective", "parameters_groups", "parameter_groups"),
        ("Objective", "schedule", "schedules"),
        ("Objective", "exported_backbon", "exported_backbone"),
        ("Objective", "heldout_phases", "heldout_phase"),
        ("Objective", "clases", "classes"),
        ("Objective", "epoch_indexes", "epoch_indices"),
        ("PretextTask", "image_specs", "image_spec"),
        ("PretextTask", "require", "requires"),
        ("Evaluator", "need_labels", "needs_labels"),
        ("Evaluator", "export_backbone", "exports_backbone"),
        ("Backbone", "mask_encode", "masked_encode"),
        ("Backbone", "capabilites", "capabilities"),
        ("Dataset", "is_available", "available"),
        ("Observer", "shows_notice", "shows_notices"),
        ("Observer", "obsreve", "observe"),
        ("Schedule", "scales", "scale"),
        ("OptimizerFactory", "builds", "build"),
    ],
)
def test_a_name_that_nearly_is_the_contracts_is_refused(contract: str, name: str, meant: str):
    message = (
        rf"^Mine of test_misspelling\.py: {contract} has no '{name}'; did you mean '{meant}'\? Start a similar name of your own with _$"
    )
    with pytest.raises(PluginError, match=message):
        type("Mine", (CONTRACTS[contract],), {name: _method, "__module__": __name__})


def test_a_misspelt_name_in_a_class_between_is_found_too():
    class Averaging:
        def on_after_stpe(self, phase, context):
            pass

    with pytest.raises(PluginError, match=r"Objective has no 'on_after_stpe'; did you mean 'on_after_step'"):
        type("Mine", (Averaging, Objective), {})


@pytest.mark.parametrize(("name", "meant"), [("clases", "classes"), ("phase", "phases"), ("heldout_phases", "heldout_phase")])
def test_what_a_constructor_sets_is_looked_at_too(name: str, meant: str):
    class Mine(Quiet):
        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            setattr(self, name, ("a", "b"))

    with pytest.raises(PluginError, match=rf"Mine of test_misspelling\.py: Objective has no '{name}'; did you mean '{meant}'\?"):
        check_objective(Mine(network()))


def test_images_whose_labels_are_misspelt_are_not_taken_for_images_without():
    images = Lazy(labels=KeyError, lables=[0, 1, 2] * 4)
    with pytest.raises(PluginError, match=r"^Lazy of test_validation\.py: ImageSet has no 'lables'; did you mean 'labels'\?"):
        OpenedDataset(Foreign(lambda: images)).load("train")
    with pytest.raises(PluginError, match=r"ImageSet has no 'note'; did you mean 'notes'\?"):
        type("Mine", (ImageSet,), {"note": ("few",)})


def test_what_is_set_beside_the_name_that_was_meant_is_ones_own():
    class Mine(Quiet):
        classes = ("a",)

        def __init__(self, backbone: Backbone) -> None:
            super().__init__(backbone)
            self.clases, self.phases, self.phase = ("b",), ("main",), "main"

    check_objective(Mine(network()))


def test_names_that_are_ones_own_pass():
    class Mine(Objective):
        def make_view(self, image):  # beside the contract's own
            return image

        def make_views(self, batch, generator, *, train):
            return {}

        def forward(self, views, step):
            raise NotImplementedError

        def _on_after_stp(self):
            pass

        def train_one(self):
            pass

    class Task(PretextTask):
        require: int = 3  # an option

        def build_objective(self, backbone, data):
            return Mine(backbone)

        def on_anything(self):
            pass

    class Wrapped(nn.Module):
        layers: tuple[str, ...] = ()
        means = (0.5,)

    type("Network", (Wrapped, Backbone), {"layer_name": "a"})
    assert Task.require == 3


def test_everything_that_ships_passes():
    """Its classes exist; and no two names of one contract are so near that one would be taken for the other."""
    assert len(load_catalog().offers) > 20
    assert len(FAMILIES) >= 10
    assert set(CONTRACTS.values()) <= {kind.cls for kind in KINDS.values()} | {ImageSet, Objective}
    for contract in CONTRACTS.values():
        type("Whole", (contract,), dict.fromkeys(_overridable(contract), _method))
        for name in _overridable(contract):
            type("Single", (contract,), {name: _method})
    assert set(EVENTS) < set(_overridable(Objective))
