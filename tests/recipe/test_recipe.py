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
    Observer,
    RecipeError,
    SemiSupervised,
    Step,
    Supervised,
    TrainingOptions,
    load_catalog,
    load_recipe,
)
from sslkit.contract.runtime import Runtime
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.recipe.stages import EvaluateStage, PretrainStage, find_cycle
from sslkit.recipe.toml import apply_override
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.rotation import Rotation

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
    schedules={"step": Step, "cosine": Cosine, "constant": Constant},
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


def without(*path: str) -> dict[str, Any]:
    parsed = table()
    *parents, last = path
    below = parsed
    for parent in parents:
        below = below[parent]
    del below[last]
    return parsed


def refused(recipe: Mapping[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(recipe, CATALOG)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ what it becomes


def test_a_recipe_becomes_typed_parts():
    recipe = parse()
    assert (recipe.name, {stage.seed for stage in recipe.stages}, recipe.data) == ("full", {7}, Digits(image_size=16))
    assert [stage.name for stage in recipe.stages] == [
        "pretrain",
        "more",
        "probe",
        "random_probe",
        "finetune",
        "tuned_probe",
        "supervised",
        "other",
    ]
    pretrain, probe = recipe.stage("pretrain"), recipe.stage("probe")
    assert isinstance(pretrain, PretrainStage)
    assert isinstance(probe, EvaluateStage)
    assert (pretrain.task, pretrain.evaluate_every, pretrain.weights) == (Rotation(), 2, "random")
    assert pretrain.training == TrainingOptions(
        epochs=3,
        batch_size=32,
        augment=Augment(crop_padding=2),
        optimizer=AdamW(lr=0.01),
        schedule=Step(milestones=(1, 2.5), gamma=0.2),
    )
    assert probe.evaluator == LinearProbe(layers=("conv1", "conv2"), epochs=2, augment=Augment(horizontal_flip=True))
    assert recipe.stage("more").training == TrainingOptions(optimizer={"main": SGD(lr=0.5)})
    assert recipe.paper == {"probe.conv2.top1": 91.16, "finetune.conv4.top1": 90.0}
    assert recipe.margins == {"trained over random": ("probe.conv2.top1", "random_probe.conv2.top1")}
    assert recipe.observers == (Quiet(every=3),)


def test_what_is_left_out_has_a_default():
    recipe = parse_recipe(
        {"name": "small", "data": "digits", "backbone": "nin", "stages": {"pretrain": {"task": "rotation"}}},
        CATALOG,
    )
    (stage,) = recipe.stages
    assert isinstance(stage, PretrainStage)
    assert ({stage.seed for stage in recipe.stages}, recipe.data, dict(recipe.paper), dict(recipe.margins), recipe.observers) == (
        {0},
        Digits(),
        {},
        {},
        (),
    )
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


def test_a_backbone_of_its_own_contradicts_weights_of_another_stage():
    assert refused(table(FULL, "stages.probe.backbone={ num_blocks = 3 }")) == (
        "stages.probe.backbone: the backbone comes from stage 'more'; leave it out, or set weights = \"random\""
    )


def test_a_backbone_is_needed_where_no_stage_has_its_own():
    assert refused(without("backbone")).startswith("backbone: missing; required; for example backbone = ")
    only_own = without("backbone")
    only_own["stages"] = {"other": only_own["stages"]["other"]}
    del only_own["paper"], only_own["margins"]
    assert parse_recipe(only_own, CATALOG).stage("other").backbone.name == "tiny"


def test_errors_of_a_backbone_have_the_path_where_it_stands():
    assert refused(table(FULL, "backbone.num_blocks=true")).startswith("backbone.num_blocks: must be an integer")
    assert refused(table(FULL, "stages.supervised.backbone.num_block=3")).startswith("stages.supervised.backbone.num_block: unknown option")


# -------------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.probe.weights=pretrian",
            "stages.probe.weights: no such stage; found 'pretrian'; allowed: pretrain, more, random, backbone; did you mean 'pretrain'?",
        ),
        ("stages.probe.weights=3", "stages.probe.weights: no such stage; found 3; allowed: pretrain, more, random, backbone"),
        (
            "stages.pretrain.weights=probe",
            "stages.pretrain.weights: stages wait for each other in a cycle; found 'pretrain -> probe -> more -> pretrain'",
        ),
        ("stages.more.weights=more", "stages.more.weights: stages wait for each other in a cycle; found 'more -> more'"),
        (
            "stages.probe.weights=finetune",
            "stages.probe.weights: must be an earlier stage; found 'finetune'; move [stages.finetune] above [stages.probe]",
        ),
        (
            "stages.tuned_probe.weights=probe",
            "stages.tuned_probe.weights: that stage leaves no backbone; found 'probe'; allowed: pretrain, more, finetune, random, backbone",
        ),
        (
            "stages.supervised.weights=pretrain",
            "stages.supervised.weights: this evaluator trains from scratch; found 'pretrain'; allowed: \"random\"",
        ),
    ],
)
def test_weights_that_cannot_be_had(override: str, message: str):
    assert refused(table(FULL, override)) == message


def test_an_evaluation_says_where_its_weights_come_from():
    assert refused(without("stages", "probe", "weights")) == (
        'stages.probe.weights: missing; required; name an earlier stage, "random" or "backbone"'
    )


def test_pretraining_may_go_on_from_an_earlier_stage():
    assert (parse().stage("more").weights, parse("stages.more.weights=random").stage("more").weights) == ("pretrain", "random")


def test_a_cycle_that_does_not_come_back_is_none():
    tables = {"a": {"weights": "b"}, "b": {"weights": "c"}, "c": {"weights": "b"}, "d": {"weights": ["a"]}, "e": 3, "f": {"weights": "e"}}
    assert find_cycle("b", tables) == ["b", "c", "b"]
    assert [find_cycle(name, tables) for name in "adef"] == [[]] * 4


# -------------------------------------------------------------------------------------------------------- figures and margins


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('paper={ "prob.conv2.top1" = 90 }', "paper: not a metric of a stage; found 'prob.conv2.top1'; allowed: pretrain.<metric>"),
        ('paper={ "probe" = 90 }', "paper: not a metric of a stage; found 'probe'"),
        ('paper={ "probe.conv2.top1" = "90" }', "paper.\"probe.conv2.top1\": must be a number in percent; found '90'"),
        ('paper={ "probe.conv2.top1" = true }', 'paper."probe.conv2.top1": must be a number in percent; found True'),
        ("paper=[1]", "paper: must be a table; found [1]"),
        ('margins={ gain = ["probe.conv2.top1"] }', "margins.\"gain\": must be two metrics; found ['probe.conv2.top1']; allowed: ["),
        ('margins={ gain = "probe.conv2.top1" }', "margins.\"gain\": must be two metrics; found 'probe.conv2.top1'"),
        ('margins={ gain = ["probe.a", "nothing.b"] }', "margins.\"gain\": not a metric of a stage; found 'nothing.b'"),
        ('margins={ gain = ["probe.a", 3] }', 'margins."gain": not a metric of a stage; found 3'),
        ("margins=true", "margins: must be a table; found True"),
    ],
)
def test_figures_must_belong_to_a_stage(override: str, message: str):
    assert refused(table(FULL, override)).startswith(message)


def test_a_misspelt_stage_of_a_figure_is_guessed():
    assert refused(table(FULL, 'paper={ "prob.conv2.top1" = 90 }')).endswith("; did you mean 'probe'?")


# ---------------------------------------------------------------------------------------------------------------- what it needs


@pytest.mark.parametrize("key", ["name", "data", "stages"])
def test_a_key_that_must_be_there(key: str):
    assert refused(without(key)).startswith(f"{key}: missing; required")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nmae=x"], "nmae: unknown key; allowed: name, seed, data, "),
        (["name=a/b"], "name: not a name; found 'a/b'; allowed: letters, digits, _ and -, but not 'random'"),
        (["name=random"], "name: not a name; found 'random'"),
        (["name=.."], "name: not a name; found '..'"),
        (["name=7"], "name: not a name; found 7"),
        ([f"name={'x' * 101}"], "name: not a name; found 'xxx"),
        (["seed=-1"], "seed: must be an integer, 0 or more; found -1"),
        (["seed=true"], "seed: must be an integer, 0 or more; found True"),
        (["seed=0.5"], "seed: must be an integer, 0 or more; found 0.5"),
        (["stages=3"], "stages: must be a table; found 3"),
        (["stages={}"], "stages: is empty; add a [stages.pretrain] table"),
        (["stages.probe=3"], "stages.probe: must be a table; found 3"),
        (['stages={ random = { task = "rotation" } }'], "stages.random: not a name; found 'random'"),
        (["stages.pretrain.evaluator=knn"], "stages.pretrain: has a task and an evaluator; allowed: one of them; make two stages of it"),
        (['stages={ a = { weights = "random" } }'], "stages.a: needs a task, to pretrain, or an evaluator; found ['weights']"),
        (["stages.pretrain.epoch=3"], "stages.pretrain.epoch: unknown key; allowed: task, evaluate_every, "),
        (["stages.probe.epochs=3"], "stages.probe.epochs: unknown key; allowed: evaluator, "),
        (["stages.pretrain.epochs=0"], "stages.pretrain.epochs: must be positive; found 0"),
        (["stages.pretrain.evaluate_every=0"], "stages.pretrain.evaluate_every: must be an integer, 1 or more; found 0"),
        (["stages.pretrain.evaluate_every=true"], "stages.pretrain.evaluate_every: must be an integer, 1 or more; found True"),
        (["log_every=0"], "log_every: must be positive; found 0"),
        (["stages.probe.log_every=0"], "stages.probe.log_every: must be positive; found 0"),
        (["stages.pretrain.task.name=rotaton"], "stages.pretrain.task.name: no pretext task is called 'rotaton'; allowed: rotation"),
        (["observers=quiet"], "observers: must be an array of tables; found 'quiet'"),
        (['observers=[{ name = "quiet", evry = 2 }]'], "observers[0].evry: unknown option; did you mean 'every'?"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(overrides: list[str], message: str):
    assert refused(table(FULL, *overrides)).startswith(message)


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
        "optimizer": {"main": {"name": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}},
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


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "recipes").glob("*.toml")))
def test_every_bundled_recipe_loads_and_comes_back_equal(name: str, tmp_path: Path):
    catalog = load_catalog()
    recipe = load_recipe(ROOT / "recipes" / name, catalog=catalog)
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(dict(recipe.table)))
    again = load_recipe(path, catalog=catalog)
    assert again == recipe
    assert recipe.name == name.removesuffix(".toml")


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "override 'epochs': must be KEY=VALUE; allowed: for example stages.pretrain.epochs=1"),
        ("=3", "override '=3': must be KEY=VALUE"),
        ("name.x=3", "override 'name.x=3': name is not a table; found 'full'"),
        ("stages.pretrain.epochs.x=3", "override 'stages.pretrain.epochs.x=3': stages.pretrain.epochs is not a table; found 3"),
    ],
)
def test_an_override_that_cannot_be_made(override: str, message: str):
    with pytest.raises(RecipeError) as caught:
        table(FULL, override)
    assert str(caught.value).startswith(message)


def test_overrides_hold_for_what_is_loaded(tmp_path: Path):
    path = tmp_path / "full.toml"
    path.write_text(FULL)
    recipe = load_recipe(str(path), ["stages.pretrain.epochs=1", "stages.pretrain.epochs=2", "seed=1"], catalog=CATALOG)
    assert (recipe.stage("pretrain").training.epochs, recipe.stage("pretrain").seed) == (2, 1)
    assert recipe.table["stages"]["pretrain"]["epochs"] == 2
    assert recipe != load_recipe(path, catalog=CATALOG)


# ----------------------------------------------------------------------------------------------------------------------- files


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    path = tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match=r"mine\.toml: no such file; `sslkit recipes` lists the bundled ones$"):
        load_recipe(path)
    path.write_text('name = "unfinished')
    with pytest.raises(RecipeError, match=r"mine\.toml: not valid TOML \(.+\)$"):
        load_recipe(path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(RecipeError, match=r"mine\.toml: is not UTF-8 text \(byte 8\); save it as UTF-8$"):
        load_recipe(path)
    with pytest.raises(RecipeError, match=r": cannot be read \(Is a directory\); name a TOML file$"):
        load_recipe(tmp_path)


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


def test_what_lies_beyond_the_end_of_training_is_noted_by_its_path():
    assert parse().notes == ()
    late = (
        "stages.pretrain.evaluate_every=9",
        "stages.pretrain.schedule.milestones=[1, 30]",
        "stages.probe.evaluator.schedule={ name = 'cosine', warmup_epochs = 5 }",
    )
    expected = (
        "stages.pretrain.evaluate_every: 9 of 3 epochs: measured at the end alone",
        "stages.pretrain.schedule.milestones: 30 of 3 epochs change nothing",
        "stages.probe.evaluator.schedule.warmup_epochs: 5 of 2 epochs: the full rate is never trained with",
    )
    assert parse(*late).notes == expected
    assert parse(*late, "sweep={ seed = [1, 2] }", "paper={}", "margins={}").notes == expected, "once, however many variants there are"
