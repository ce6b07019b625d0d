"""``check`` builds what a stage trains: what depends on the backbone is refused before anything is computed, by its path."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import (
    SGD,
    AdamW,
    Backbone,
    Batch,
    Catalog,
    Cosine,
    DataInfo,
    Dataset,
    FineTune,
    ImageSet,
    ImageSpec,
    LinearProbe,
    Objective,
    OptionError,
    PluginError,
    PretextTask,
    RecipeError,
    SemiSupervised,
    Split,
    Step,
    StepOutput,
    TrainingOptions,
    fit,
    run_recipe,
)
from sslkit.contract.evaluator import RunContext
from sslkit.data.loader import Loader
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.run.preflight import check_recipe
from tests.contract.families import CPU, FAMILIES, Family, every_family
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.images import tiny_images
from tests.contract.miniatures.rotation import Rotation


@dataclass(frozen=True, kw_only=True)
class Images(Dataset):
    """Thirty of three classes, 16 x 16 pixels in three colours."""

    def image(self) -> ImageSpec:
        return tiny_images(1).image

    def load(self, split: Split) -> ImageSet:
        images = tiny_images(30, seed=len(split))
        images.labels, images.classes = torch.arange(30) % 3, ("a", "b", "c")
        return images


class Plain(Objective):
    """Trains a linear layer on pooled features."""

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__(backbone)
        self.head = nn.Linear(width, 2)

    def make_views(self, batch: Batch, generator: Generator, *, train: bool) -> dict[str, Tensor]:
        return {"images": batch.images}

    def forward(self, views: dict[str, Tensor], step: Step) -> StepOutput:
        return StepOutput(self.head(self.backbone.embed(views["images"])).square().mean(), {})


@dataclass(frozen=True, kw_only=True)
class Demanding(PretextTask):
    """Whose option must fit the backbone; what it builds may be spoilt.

    Attributes:
        layer: of the backbone.
        spoil: what is wrong with the objective.
        values: compute with values, which the meta device has none of.
    """

    layer: str = "body"
    spoil: str = ""
    values: bool = False
    built: ClassVar[list[str]] = []

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        self.built.append(backbone.mean.device.type)
        if self.layer not in backbone.layer_names:
            raise OptionError("layer", "does not exist in this backbone", found=self.layer, allowed=backbone.layer_names)
        if self.spoil == "backbone":
            raise ZeroDivisionError("in the task's own code")
        if self.values:
            assert torch.randperm(4).tolist()
        objective: Any = Plain(backbone, backbone.layer(backbone.layer_names[-1]).num_chs)
        if self.spoil:
            SPOILT[self.spoil][0](objective)
        return objective


def setting(**values: Any) -> Callable[[Any], None]:
    return lambda objective: [setattr(objective, name, value) for name, value in values.items()] and None


WHO = "Plain of test_objective_check.py"
SPOILT: dict[str, tuple[Callable[[Any], None], str]] = {
    "phases": (setting(phases=("main", "main")), f"{WHO}: phases must be a tuple of distinct names; found ('main', 'main')"),
    "phase": (setting(phases="main"), f"{WHO}: phases must be a tuple of distinct names; found 'main'"),
    "heldout_phase": (
        setting(heldout_phase="mian"),
        f"{WHO}: heldout_phase must be one of its phases, or None; found 'mian'; allowed: main",
    ),
    "frozen": (setting(frozen=("haed",)), f"{WHO}: frozen names what is no submodule of it; found 'haed'; did you mean 'head'?"),
    "schedules": (setting(schedules=lambda: {"momentum": 0.9}), f"{WHO}: schedules['momentum'] must be a function of progress"),
    "values": (setting(schedules=lambda: {"momentum": lambda _: None}), f"{WHO}: schedules['momentum'] must be a function of progress"),
    "groups": (
        setting(parameter_groups=lambda: {"mian": []}),
        f"{WHO}: parameter_groups must have one entry for each phase; found ['mian']; allowed: main",
    ),
    "left out": (
        lambda objective: setting(parameter_groups=lambda: {"main": [{"params": list(objective.head.parameters())}]})(objective),
        f"{WHO}: no phase trains backbone.stem.0.weight",
    ),
}


CATALOG = Catalog.of(
    pretext_tasks={
        "demanding": Demanding,
        "rotation": Rotation,
        **{type(f.task).__name__.lower(): type(f.task) for f in FAMILIES.values()},
    },
    backbones={"tiny": TinyConv, "tokens": TinyTokens},
    datasets={"images": Images},
    evaluators={"linear_probe": LinearProbe, "finetune": FineTune, "semi_supervised": SemiSupervised},
    optimizers={"sgd": SGD, "adamw": AdamW},
    schedules={"cosine": Cosine},
)


@pytest.fixture(autouse=True)
def unbuilt() -> None:
    Demanding.built.clear()


def recipe(stages: dict[str, Any], *, backbone: Any = "tiny", **more: Any) -> Recipe:
    return parse_recipe({"name": "mine", "data": "images", "device": "cpu", "backbone": backbone, "stages": stages, **more}, CATALOG)


def pretrain(task: Any, **options: Any) -> dict[str, Any]:
    return {"task": task, "batch_size": 8, "epochs": 1, **options}


def test_an_option_that_does_not_fit_the_backbone_is_refused_by_its_path_before_anything_is_computed(tmp_path: Path):
    mine = recipe({"first": pretrain("rotation"), "second": pretrain({"name": "demanding", "layer": "haed"})})
    message = "stages.second.task.layer: does not exist in this backbone; found 'haed'; allowed: stem, body"
    with pytest.raises(RecipeError) as caught:
        check_recipe(mine)
    assert str(caught.value) == message
    with pytest.raises(RecipeError) as caught:
        run_recipe(mine, output=tmp_path / "run")
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spoil", SPOILT)
def test_an_objective_that_is_not_what_it_should_be_is_refused(spoil: str):
    with pytest.raises(PluginError) as caught:
        check_recipe(recipe({"mine": pretrain({"name": "demanding", "spoil": spoil})}))
    assert str(caught.value).startswith(f"stages.mine: {SPOILT[spoil][1]}")


@pytest.mark.parametrize("spoil", [spoil for spoil in SPOILT if spoil not in ("groups", "left out")])
def test_fit_refuses_the_same_in_python(spoil: str):
    images = tiny_images(8)
    objective = Demanding(spoil=spoil).build_objective(TinyConv(images.image), DataInfo(images.image, 8))
    loader, training = Loader(images, batch_size=8, device=CPU), TrainingOptions(epochs=1, batch_size=8)
    with pytest.raises(PluginError) as caught:
        fit(objective, loader, None, training, RunContext(stage="a", seed=0, device=CPU))
    assert str(caught.value).startswith(SPOILT[spoil][1])


def test_an_objective_that_computes_with_values_is_built_for_real():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert check_recipe(recipe({"mine": pretrain({"name": "demanding", "values": True})})) == ""
    assert Demanding.built == ["meta", "cpu"]
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ZeroDivisionError, match="in the task's own code"):
        check_recipe(recipe({"mine": pretrain({"name": "demanding", "spoil": "backbone"})}))


def test_what_is_the_same_in_many_stages_is_built_once():
    sweep = {"seed": [0, 1, 2], "stages.mine.task.values": [False, True]}
    assert check_recipe(recipe({"mine": pretrain({"name": "demanding"}), "more": pretrain("demanding", weights="mine")}, sweep=sweep)) == ""
    assert Demanding.built == ["meta", "meta", "cpu"]


@every_family
def test_every_family_of_methods_passes(family: Family):
    optimizer = family.optimizer if isinstance(family.optimizer, dict) else {"main": family.optimizer}
    tables = {phase: {"name": type(one).__name__.lower(), "lr": 0.01} for phase, one in optimizer.items()}
    task = type(family.task).__name__.lower()
    backbone = {TinyConv: "tiny", TinyTokens: "tokens"}[family.backbone]
    assert check_recipe(recipe({"mine": pretrain(task, optimizer=tables)}, backbone=backbone)) == ""
    wrong = recipe({"mine": pretrain(task, optimizer={**tables, "genrator": "sgd"})}, backbone=backbone)
    with pytest.raises(RecipeError, match=r"^stages\.mine\.optimizer: is given for an unknown phase; found 'genrator'"):
        check_recipe(wrong)


@pytest.mark.parametrize(
    "evaluator",
    [
        {"name": "linear_probe", "layers": ["body"]},
        {"name": "finetune"},
        {"name": "semi_supervised", "layers": ["body"], "labels_per_class": [1], "head": "linear"},
    ],
    ids=lambda evaluator: evaluator["name"],
)
@pytest.mark.parametrize("optimizer", [{"mian": "sgd"}, {"main": "sgd", "mian": "sgd"}, {}], ids=["other", "more", "none"])
def test_optimizers_that_no_phase_of_a_classifier_has_are_refused(evaluator: dict[str, Any], optimizer: dict[str, Any]):
    mine = recipe({"probe": {"weights": "random", "evaluator": {**evaluator, "batch_size": 8, "optimizer": optimizer}}})
    with pytest.raises(RecipeError, match=r"^stages\.probe\.evaluator\.optimizer: "):
        check_recipe(mine)
