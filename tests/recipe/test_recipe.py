import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from sslkit import (
    KNN,
    NIN,
    SGD,
    AdamW,
    Augment,
    Catalog,
    Constant,
    Cosine,
    Digits,
    Event,
    FineTune,
    LinearProbe,
    MultiStep,
    Observer,
    RecipeError,
    SemiSupervised,
    Supervised,
    TrainingOptions,
    load_recipe,
)
from sslkit.contract.runtime import Runtime
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.recipe.stages import EvaluateStage, PretrainStage, find_cycle
from sslkit.recipe.toml import apply_override
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.rotation import Rotation
from tests.recipes import refusal

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Quiet(Observer):
    every: int = 1

    def observe(self, event: Event) -> None:
        pass


CATALOG = Catalog.of(
    pretext_tasks={"rotation": Rotation},
    backbones={"nin": NIN, "tiny": TinyConv},
    datasets={"digits": Digits},
    evaluators={"linear_probe": LinearProbe, "finetune": FineTune, "supervised": Supervised, "knn": KNN, "semi_supervised": SemiSupervised},
    optimizers={"sgd": SGD, "adamw": AdamW},
    schedules={"step": MultiStep, "cosine": Cosine, "constant": Constant},
    observers={"quiet": Quiet},
)

FULL = """
name = "full"
seed = 7
device = "cpu"
log_every = 5

[data]
name = "digits"
image_size = 16

[backbone]
name = "nin"
num_blocks = 4
width = 0.1

[stages.pretrain]
task = { name = "rotation" }
augment = { crop_padding = 2 }
epochs = 3
batch_size = 32
evaluate_every = 2
optimizer = { name = "adamw", lr = 0.01 }
schedule = { name = "step", milestones = [1, 2.5], gamma = 0.2 }
log_every = 9
compile = false

[stages.more]
weights = "pretrain"
task = { name = "rotation" }
optimizer = { main = { name = "sgd", lr = 0.5 } }

[stages.probe]
weights = "more"
evaluator = { name = "linear_probe", layers = ["conv1", "conv2"], epochs = 2, augment = { horizontal_flip = true } }

[stages.random_probe]
weights = "random"
evaluator = { name = "knn", layers = ["conv2"], k = 5 }

[stages.finetune]
weights = "pretrain"
evaluator = { name = "finetune", epochs = 1 }

[stages.tuned_probe]
weights = "finetune"
evaluator = { name = "linear_probe", layers = ["conv2"] }

[stages.supervised]
weights = "random"
backbone = { num_blocks = 3 }
evaluator = { name = "supervised", layer = "conv3" }

[stages.other]
weights = "random"
backbone = { name = "tiny", width = 6 }
evaluator = { name = "semi_supervised", labels_per_class = [1, 5], layers = ["body"], head = "linear" }

[paper]
"probe.conv2.top1" = 91.16
"finetune.conv4.top1" = 90

[margins]
"trained over random" = ["probe.conv2.top1", "random_probe.conv2.top1"]

[[observers]]
name = "quiet"
every = 3
"""


def table(text: str = FULL, *overrides: str) -> dict[str, Any]:
    parsed = tomllib.loads(text)
    for override in overrides:
        apply_override(parsed, override)
    return parsed


def parse(*overrides: str, text: str = FULL) -> Recipe:
    return parse_recipe(table(text, *overrides), CATALOG)


def refused(recipe: Mapping[str, Any]) -> str:
    return refusal(RecipeError, parse_recipe, recipe, CATALOG)


# ------------------------------------------------------------------------------------------------------------ what it becomes


def test_a_recipe_becomes_typed_parts():
    recipe = parse()
    assert (recipe.name, {stage.seed for stage in recipe.stages}, recipe.data) == ("full", {7}, Digits(image_size=16))
    names = ["pretrain", "more", "probe", "random_probe", "finetune", "tuned_probe", "supervised", "other"]
    assert [stage.name for stage in recipe.stages] == names
    pretrain, probe = recipe.stage("pretrain"), recipe.stage("probe")
    assert isinstance(pretrain, PretrainStage)
    assert isinstance(probe, EvaluateStage)
    assert (pretrain.task, pretrain.evaluate_every, pretrain.weights) == (Rotation(), 2, "random")
    assert pretrain.training == TrainingOptions(
        epochs=3,
        batch_size=32,
        augment=Augment(crop_padding=2),
        optimizer=AdamW(lr=0.01),
        schedule=MultiStep(milestones=(1, 2.5), gamma=0.2),
    )
    assert probe.evaluator == LinearProbe(layers=("conv1", "conv2"), epochs=2, augment=Augment(horizontal_flip=True))
    assert recipe.stage("more").training == TrainingOptions(optimizer={"main": SGD(lr=0.5)})
    assert recipe.paper == {"probe.conv2.top1": 91.16, "finetune.conv4.top1": 90.0}
    assert recipe.margins == {"trained over random": ("probe.conv2.top1", "random_probe.conv2.top1")}
    assert recipe.observers == (Quiet(every=3),)


def test_what_is_left_out_has_a_default():
    recipe = parse_recipe({"name": "small", "data": "digits", "backbone": "nin", "stages": {"pretrain": {"task": "rotation"}}}, CATALOG)
    (stage,) = recipe.stages
    assert isinstance(stage, PretrainStage)
    assert (stage.seed, recipe.data, dict(recipe.paper), dict(recipe.margins), recipe.observers) == (0, Digits(), {}, {}, ())
    assert (stage.training, stage.runtime, stage.evaluate_every, stage.weights) == (TrainingOptions(), Runtime(), None, "random")
    assert stage.backbone.options == {"num_blocks": 4, "width": 1.0, "pool_after_conv3": False}


def test_the_runtime_of_the_top_holds_for_stages_that_do_not_say_otherwise():
    recipe = parse()
    assert recipe.stage("pretrain").runtime == Runtime(device="cpu", log_every=9, compile=False)
    assert recipe.stage("probe").runtime == Runtime(device="cpu", log_every=5)


# ------------------------------------------------------------------------------------------------------------------ backbones


def test_a_stages_backbone_overrides_single_options_of_the_recipes():
    recipe = parse()
    options = {"num_blocks": 4, "width": 0.1, "pool_after_conv3": False}
    assert recipe.stage("random_probe").backbone.options == options
    assert recipe.stage("supervised").backbone.options == {**options, "num_blocks": 3}
    named = parse('stages.supervised.backbone={ name = "nin", num_blocks = 5 }')
    assert named.stage("supervised").backbone.options == {**options, "num_blocks": 5}


def test_another_class_takes_nothing_from_the_recipes_backbone():
    backbone = parse().stage("other").backbone
    assert (backbone.cls, backbone.name, backbone.options) == (TinyConv, "tiny", {"width": 6, "dropout": 0.1})


def test_a_stage_with_weights_has_the_backbone_that_they_were_made_for():
    recipe = parse("stages.more.weights=random", "stages.more.backbone={ num_blocks = 5 }")
    assert recipe.stage("probe").backbone == recipe.stage("more").backbone
    assert recipe.stage("probe").backbone.options["num_blocks"] == 5
    assert recipe.stage("tuned_probe").backbone == recipe.stage("pretrain").backbone


def test_a_backbone_is_needed_where_no_stage_has_its_own():
    only_own = table()
    del only_own["backbone"]
    assert refused(only_own).startswith("backbone: missing; required; for example backbone = ")
    only_own["stages"] = {"other": only_own["stages"]["other"]}
    del only_own["paper"], only_own["margins"]
    assert parse_recipe(only_own, CATALOG).stage("other").backbone.name == "tiny"


def test_errors_of_a_backbone_have_the_path_where_it_stands():
    assert refused(table(FULL, "backbone.num_blocks=true")).startswith("backbone.num_blocks: must be an integer")
    assert refused(table(FULL, "stages.supervised.backbone.num_block=3")).startswith("stages.supervised.backbone.num_block: unknown option")


# -------------------------------------------------------------------------------------------------------------------- weights


def test_pretraining_may_go_on_from_an_earlier_stage():
    assert (parse().stage("more").weights, parse("stages.more.weights=random").stage("more").weights) == ("pretrain", "random")


def test_a_cycle_that_does_not_come_back_is_none():
    tables = {"a": {"weights": "b"}, "b": {"weights": "c"}, "c": {"weights": "b"}, "d": {"weights": ["a"]}, "e": 3, "f": {"weights": "e"}}
    assert find_cycle("b", tables) == ["b", "c", "b"]
    assert [find_cycle(name, tables) for name in "adef"] == [[]] * 4
    assert find_cycle("b", {**tables, "c": {"weights": "a"}}) == ["b", "c", "a", "b"]


def test_an_option_of_an_observer_is_named_by_its_path():
    message = refused(table(FULL, 'observers=[{ name = "quiet", evry = 2 }]'))
    assert message == "observers[0].evry: unknown option; did you mean 'every'?"


# ------------------------------------------------------------------------------------------------------------------ round trip


def test_the_resolved_recipe_loads_to_an_equal_one(tmp_path: Path):
    recipe = parse()
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(dict(recipe.table)))
    again = load_recipe(path, catalog=CATALOG)
    assert again.table == recipe.table
    assert again == recipe


def test_the_resolved_recipe_has_every_default_filled_in():
    resolved = parse().table
    assert resolved["stages"]["more"] == {
        "weights": "pretrain",
        "task": {"name": "rotation"},
        "epochs": 100,
        "batch_size": 128,
        "lr_scaling": "none",
        "accumulate_batches": 1,
        "optimizer": {
            "main": {
                "name": "sgd",
                "lr": 0.5,
                "momentum": 0.9,
                "nesterov": True,
                "weight_decay": 5e-4,
                "exclude_norm_and_bias": False,
            }
        },
        "schedule": {"name": "cosine", "final": 0.0, "warmup_epochs": 0.0},
        "augment": {"crop_padding": 0, "horizontal_flip": False},
        "on_nan": {"retries": 0, "lr_factor": 0.5},
    }
    assert resolved["stages"]["supervised"]["backbone"] == {"name": "nin", "num_blocks": 3, "width": 0.1, "pool_after_conv3": False}
    assert "backbone" not in resolved["stages"]["probe"]
    assert "backbone" not in resolved
    assert resolved["stages"]["pretrain"]["log_every"] == 9
    assert "log_every" not in resolved["stages"]["probe"]
    assert (resolved["device"], resolved["log_every"], resolved["seed"]) == ("cpu", 5, 7)


def test_a_recipe_knows_the_versions_of_the_plugins_it_uses():
    recipe = load_recipe(ROOT / "recipes" / "quickstart.toml")
    assert {name: set(versions) for name, versions in recipe.versions.items()} == {stage.name: {"sslkit"} for stage in recipe.stages}
    assert dict(parse().versions["probe"]) == {}  # classes handed over in Python have none


# ------------------------------------------------------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("stages.pretrain.epochs = 1", ("stages", "pretrain", "epochs"), 1),
        ("stages.pretrain.optimizer.lr=1e-3", ("stages", "pretrain", "optimizer", "lr"), 1e-3),
        ("stages.probe.evaluator.layers=['conv1']", ("stages", "probe", "evaluator", "layers"), ["conv1"]),
        ('stages.pretrain.schedule={ name = "constant" }', ("stages", "pretrain", "schedule"), {"name": "constant"}),
        ("stages.probe.weights=random", ("stages", "probe", "weights"), "random"),
        ('stages.probe.weights="random"', ("stages", "probe", "weights"), "random"),
        ("device=cuda:1", ("device",), "cuda:1"),
        ("data.root=/tmp/a=b", ("data", "root"), "/tmp/a=b"),
        ("data.root=", ("data", "root"), ""),
        ("compile=true", ("compile",), True),
        ("new.table.key=1", ("new", "table", "key"), 1),
    ],
)
def test_an_override_sets_one_key(override: str, path: tuple[str, ...], value: object):
    expected = table()
    below = expected
    for key in path[:-1]:
        below = below.setdefault(key, {})
    below[path[-1]] = value
    assert table(FULL, override) == expected


def test_overrides_hold_for_what_is_loaded(tmp_path: Path):
    path = tmp_path / "full.toml"
    path.write_text(FULL)
    recipe = load_recipe(str(path), ["stages.pretrain.epochs=1", "stages.pretrain.epochs=2", "seed=1"], catalog=CATALOG)
    assert (recipe.stage("pretrain").training.epochs, recipe.stage("pretrain").seed) == (2, 1)
    assert recipe.table["stages"]["pretrain"]["epochs"] == 2
    assert recipe != load_recipe(path, catalog=CATALOG)


# ---------------------------------------------------------------------------------------------------------------- the device


@pytest.mark.parametrize(
    ("sweep", "keys"),
    [
        ("", ["pretrain", "probe", "supervised"]),
        ('[sweep]\n"stages.pretrain.device" = ["cuda", "mps"]\n', ["pretrain", "probe", "supervised"]),
        (
            '[sweep]\ndevice = ["cuda", "mps"]\nseed = [0, 1]\n',
            [f"seed={n}/{name}" for n in (0, 1) for name in ("pretrain", "probe", "supervised")],
        ),
        ('[sweep.here]\n"stages.probe.device" = "cuda"\n[sweep.there]\ndevice = "mps"\n', ["pretrain", "probe", "supervised"]),
    ],
)
def test_a_device_that_is_asked_for_is_that_of_every_stage(sweep: str, keys: list[str], tmp_path: Path):
    text = """
        name = "many"
        device = "cuda:1"
        data = "digits"
        backbone = "nin"
        [stages.pretrain]
        task = "rotation"
        device = "cuda:2"
        log_every = 3
        [stages.probe]
        weights = "pretrain"
        device = "mps"
        evaluator = { name = "knn", layers = ["conv2"] }
        [stages.supervised]
        weights = "random"
        evaluator = "supervised"
    """
    (tmp_path / "many.toml").write_text(text + sweep)
    recipe = load_recipe(tmp_path / "many.toml", ["stages.supervised.device=cuda:3"], device="cpu", catalog=CATALOG)
    assert [(stage.key, stage.runtime.device) for stage in recipe.stages] == [(key, "cpu") for key in keys]
    assert {stage.runtime.log_every for stage in recipe.stages if stage.name == "pretrain"} == {3}
    for resolved in recipe.variants.values() or [recipe.table]:
        again = parse_recipe(resolved, CATALOG)
        assert {stage.runtime.device for stage in again.stages} == {"cpu"}, "a run's recipe says where it ran"
    written = load_recipe(tmp_path / "many.toml", catalog=CATALOG)
    assert "cpu" not in {stage.runtime.device for stage in written.stages}


def test_a_device_does_not_hide_what_is_wrong_with_the_stages():
    for stages, message in ((3, "stages: must be a table; found 3"), ({"a": 3}, "stages.a: must be a table; found 3")):
        with pytest.raises(RecipeError, match=f"^{message}"):
            parse_recipe({"name": "x", "data": "digits", "stages": stages}, CATALOG, device="cpu")


# ------------------------------------------------------------------------------------------------------------------- notes


def test_scaled_rates_are_noted_and_stay_as_they_are_written():
    recipe = parse(
        "stages.pretrain.lr_scaling=linear",
        "stages.pretrain.optimizer={ name = 'sgd', lr = 0.4 }",
        "stages.pretrain.batch_size=512",
        "stages.probe.evaluator.lr_scaling=sqrt",
        "stages.probe.evaluator.batch_size=64",
    )
    assert [note.partition(" by ")[0] for note in recipe.notes] == [
        "stages.pretrain.optimizer.lr: 0.4 becomes 0.8",
        "stages.probe.evaluator.optimizer.lr: 0.1 becomes 0.05",
    ]
    assert recipe.table["stages"]["pretrain"]["optimizer"]["lr"] == 0.4


def test_what_lies_beyond_the_end_of_training_is_noted_by_its_path():
    assert parse().notes == ()
    late = (
        "stages.pretrain.evaluate_every=9",
        "stages.pretrain.schedule.milestones=[1, 30]",
        "stages.probe.evaluator.schedule={ name = 'cosine', warmup_epochs = 5 }",
    )
    expected = (
        "stages.pretrain.evaluate_every: 9 of 3 epochs: measured only at the end",
        "stages.pretrain.schedule.milestones: 30 of 3 epochs change nothing",
        "stages.probe.evaluator.schedule.warmup_epochs: 5 of 2 epochs: the base learning rate is never reached",
    )
    assert parse(*late).notes == expected
    assert parse(*late, "sweep={ seed = [1, 2] }", "paper={}", "margins={}").notes == expected, "once, however many variants there are"
