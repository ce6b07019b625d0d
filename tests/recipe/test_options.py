import dataclasses
import enum
import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, final

import pydantic
import pytest
import tomli_w
import torch
import typing_extensions

from sslkit.catalog.catalog import Catalog
from sslkit.contract.backbone import Backbone, FeatureInfo
from sslkit.contract.errors import BackboneError, OptionError, PluginError, RecipeError
from sslkit.contract.images import Augment, ImageSpec
from sslkit.contract.objective import PretextTask
from sslkit.contract.training import OptimizerFactory, Schedule
from sslkit.recipe.build import build
from sslkit.recipe.describe import BackboneOptions, build_backbone_options, describe
from tests.recipes import refusal

PATH = "stages.pretrain.task"
NO_AUGMENT = Augment()
SPEC = ImageSpec(8, 8, "rgb", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


Angles = typing_extensions.TypeAliasType("Angles", tuple[int, ...])
Nested = typing_extensions.TypeAliasType("Nested", OptimizerFactory | Angles)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class SomeTask(PretextTask):
    def build_objective(self, backbone, data):
        raise NotImplementedError


class SomeOptimizer(OptimizerFactory):
    def build(self, groups):
        raise NotImplementedError


class SomeSchedule(Schedule):
    def scale(self, epoch, num_epochs):
        raise NotImplementedError


@final
@dataclass(frozen=True, kw_only=True)
class Rot(SomeTask):
    requires: ClassVar[frozenset[str]] = frozenset({"map"})
    angles: tuple[int, ...] = (0, 90, 180, 270)
    weight: float = 1.0
    shuffle: bool = False
    mode: Literal["fast", "slow"] = "fast"
    layer: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.angles)) != len(self.angles):
            raise OptionError("angles", "must not repeat", found=self.angles, allowed="each angle once")
        if self.weight == 13.0:
            raise ValueError("thirteen is\nunlucky")
        if self.weight == 14.0:
            raise TypeError("no fourteen")


@dataclass(frozen=True, kw_only=True)
class Sgd(SomeOptimizer):
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class Adam(SomeOptimizer):
    lr: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Step(SomeSchedule):
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Flat(SomeSchedule):
    pass


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Not of any kind: a table without a name, with tables inside."""

    optimizer: OptimizerFactory | Mapping[str, OptimizerFactory] = field(default_factory=Adam)
    schedule: Schedule | None = None
    augment: Augment = field(default_factory=Augment)
    chain: tuple[Schedule, ...] = ()
    named: dict[str, Schedule] = field(default_factory=dict)
    step: Step = field(default_factory=Step)


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """One option of each type."""

    integer: int = 1
    number: float = 1.0
    flag: bool = False
    text: str = "x"
    path: Path = Path("x")
    color: Color = Color.RED
    choice: Literal["a", "b", 3] = "a"
    pair: tuple[int, int] = (1, 2)
    mixed: tuple[int, str] = (1, "x")
    texts: tuple[str, ...] = ()
    grid: tuple[tuple[int, ...], ...] = ()
    maybe: tuple[int, ...] | None = None
    either: int | tuple[int, ...] = 1
    auto: Literal["auto"] | float = "auto"
    scalar: float | int = 1.0
    listed: list[int] = field(default_factory=list)
    sequence: Sequence[int] = ()
    unique: frozenset[str] = frozenset()
    table: dict[str, float] = field(default_factory=dict)
    free: Any = None
    bare: tuple = ()
    bounded: Annotated[int, pydantic.Field(gt=0)] = 1
    filled: Annotated[tuple[int, ...], pydantic.Field(min_length=1)] = (1,)


class Net(Backbone):
    feature_info = (FeatureInfo("out", 4, 1),)

    def __init__(
        self,
        image: ImageSpec,
        *,
        depth: int,
        widths: tuple[int, ...] = (4, 8),
        act: Literal["relu", "gelu"] = "relu",
        stem: Augment = NO_AUGMENT,
        pretrained: bool | None = None,
    ):
        super().__init__(image)
        if depth > 9:
            raise OptionError("depth", "is too deep", found=depth, allowed="up to 9")
        if depth == 7:
            raise BackboneError("seven is not possible")
        self.given = (depth, widths, act, stem, pretrained)

    def extract(self, x, layers):
        return dict.fromkeys(layers, x)


CATALOG = Catalog.of(
    pretext_tasks={"rot": Rot}, optimizers={"sgd": Sgd, "adam": Adam}, schedules={"step": Step, "flat": Flat}, backbones={"net": Net}
)


def toml(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def error(target: Any, table: object, path: str = PATH) -> str:
    return refusal(RecipeError, build, target, table, path, CATALOG)


# ---------------------------------------------------------------------------------------------------------------- names


def test_a_table_is_a_class_and_its_options():
    table = toml('task = { name = "rot", angles = [0, 180], weight = 2, shuffle = true, mode = "slow", layer = "conv2" }')["task"]
    expected = Rot(angles=(0, 180), weight=2.0, shuffle=True, mode="slow", layer="conv2")
    task = build(PretextTask, table, PATH, CATALOG)
    assert task == expected
    assert build("pretext_tasks", table, PATH, CATALOG) == expected
    assert table["name"] == "rot"  # the recipe's own table is left alone


def test_a_string_is_the_name_alone():
    assert build(OptimizerFactory, "adam", "o", CATALOG) == Adam()
    assert error(OptimizerFactory, "adan", "o") == "o: no optimizer is called 'adan'; allowed: adam, sgd; did you mean 'adam'?"
    assert error(OptimizerFactory, "sgd", "o") == "o.lr: missing; required; allowed: a number"


def test_a_class_of_ones_own():
    with pytest.raises(RecipeError, match=r"^s\.name: 'no_such_module:X' cannot be imported; it is neither installed nor"):
        build(Schedule, {"name": "no_such_module:X"}, "s", Catalog(allow_code=True))
    found = build(Schedule, {"name": "sslkit.training.schedules:Constant"}, "s", Catalog(allow_code=True))
    assert type(found).__name__ == "Constant"


def test_the_name():
    assert error(PretextTask, {"name": "rott"}) == (
        "stages.pretrain.task.name: no pretext task is called 'rott'; allowed: rot; did you mean 'rot'?"
    )
    assert error(PretextTask, {"angles": [0]}) == "stages.pretrain.task.name: missing; required; allowed: rot"
    assert error(PretextTask, {"name": 3}) == "stages.pretrain.task.name: must be a string; found 3"
    assert error(PretextTask, 3) == (
        "stages.pretrain.task: must be a pretext task (its name, or a table with its name and options); found 3"
    )
    assert error(PretextTask, [], "") == "PretextTask: must be a pretext task (its name, or a table with its name and options); found []"
    assert error(Augment, {"name": "x"}) == "stages.pretrain.task.name: unknown option; allowed: crop_padding, horizontal_flip"
    assert error(Augment, "x") == "stages.pretrain.task: must be a table; found 'x'"


def test_options_must_be_known_and_complete():
    assert error(PretextTask, {"name": "rot", "angels": [0]}) == "stages.pretrain.task.angels: unknown option; did you mean 'angles'?"
    assert error(PretextTask, {"name": "rot", "zzz": 0}) == (
        "stages.pretrain.task.zzz: unknown option; allowed: angles, weight, shuffle, mode, layer"
    )
    assert error(Schedule, {"name": "flat", "x": 0}) == "stages.pretrain.task.x: unknown option; allowed: no options"
    # A misspelt option is reported rather than the missing one that it was meant to be.
    assert error(OptimizerFactory, {"name": "sgd", "lrr": 1.0}, "o") == "o.lrr: unknown option; did you mean 'lr'?"
    assert error(Trained, {"n x": 1}, "") == '"n x": unknown option; allowed: optimizer, schedule, augment, chain, named, step'
    # A class attribute is no option, though it looks like one.
    assert error(PretextTask, {"name": "rot", "requires": []}).startswith("stages.pretrain.task.requires: unknown option; ")


def test_only_the_first_error_is_reported():
    assert error(Kinds, {"integer": "1", "number": "x"}, "k") == "k.integer: must be an integer; found '1'"


# --------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("option", "raw", "message"),
    [
        ("integer", "100", "k.integer: must be an integer; found '100'"),
        ("integer", True, "k.integer: must be an integer; found True"),
        ("integer", 1.0, "k.integer: must be an integer; found 1.0"),
        ("integer", [1], "k.integer: must be an integer; found [1]"),
        ("integer", None, "k.integer: must be an integer; found None"),
        ("number", "1", "k.number: must be a number; found '1'"),
        ("number", False, "k.number: must be a number; found False"),
        ("number", math.inf, "k.number: must be finite; found inf"),
        ("number", -math.inf, "k.number: must be finite; found -inf"),
        ("number", math.nan, "k.number: must be finite; found nan"),
        ("flag", 1, "k.flag: must be true or false; found 1"),
        ("flag", "true", "k.flag: must be true or false; found 'true'"),
        ("text", 1, 'k.text: must be a string; found 1; put it in quotes, "1"; on a command line \'"1"\''),
        ("text", toml("x = 2024-01-02")["x"], "k.text: must be a string; found datetime.date(2024, 1, 2); put it in quotes"),
        ("path", 1, "k.path: must be a path in quotes; found 1"),
        ("color", "rde", "k.color: unknown choice; found 'rde'; allowed: 'red', 'blue'; did you mean 'red'?"),
        ("choice", "c", "k.choice: unknown choice; found 'c'; allowed: 'a', 'b', 3"),
        ("choice", 3.0, "k.choice: unknown choice; found 3.0; allowed: 'a', 'b', 3"),
        ("choice", ["a"], "k.choice: unknown choice; found ['a']; allowed: 'a', 'b', 3"),
        ("pair", [1], "k.pair: must be an array of 2 integers; found [1]"),
        ("pair", [1, 2, 3], "k.pair: must be an array of 2 integers; found [1, 2, 3]"),
        ("pair", [1, "2"], "k.pair[1]: must be an integer; found '2'"),
        ("mixed", ["x", 1], "k.mixed[0]: must be an integer; found 'x'"),
        ("mixed", [1], "k.mixed: must be an array of 2 values; found [1]"),
        ("texts", "conv2", "k.texts: must be an array of strings; found 'conv2'; write [\"conv2\"]"),
        ("texts", ["a", 2], 'k.texts[1]: must be a string; found 2; put it in quotes, "2"; on a command line \'"2"\''),
        ("texts", {}, "k.texts: must be an array of strings; found {}"),
        ("grid", [1], "k.grid[0]: must be an array of integers; found 1; write [1]"),
        ("grid", [[1], [2, True]], "k.grid[1][1]: must be an integer; found True"),
        ("grid", 3, "k.grid: must be an array of arrays of integers; found 3; write [3]"),
        ("maybe", 3, "k.maybe: must be an array of integers; found 3; write [3]"),
        ("maybe", ["3"], "k.maybe[0]: must be an integer; found '3'"),
        ("either", "3", "k.either: must be an integer or an array of integers; found '3'"),
        ("either", [True], "k.either[0]: must be an integer; found True"),
        ("auto", "autom", "k.auto: unknown choice; found 'autom'; allowed: 'auto', a number; did you mean 'auto'?"),
        ("auto", math.inf, "k.auto: must be finite; found inf"),
        ("auto", [1], "k.auto: must be 'auto' or a number; found [1]"),
        ("listed", [1.5], "k.listed[0]: must be an integer; found 1.5"),
        ("sequence", "123", "k.sequence: must be an array of integers; found '123'; write [\"123\"]"),
        ("unique", [1], 'k.unique[0]: must be a string; found 1; put it in quotes, "1"; on a command line \'"1"\''),
        ("table", {"a": "b"}, "k.table.a: must be a number; found 'b'"),
        ("table", 3, "k.table: must be a table of numbers; found 3"),
        ("bare", 3, "k.bare: must be an array; found 3; write [3]"),
        ("bounded", 0, "k.bounded: must be greater than 0; found 0"),
        ("bounded", "1", "k.bounded: must be an integer; found '1'"),
        ("filled", [], "k.filled: must have at least 1 item, not 0; found []"),
    ],
)
def test_a_value_of_the_wrong_type(option: str, raw: object, message: str):
    assert error(Kinds, {option: raw}, "k") == message


@pytest.mark.parametrize(
    ("option", "raw", "value"),
    [
        ("integer", 10**30, 10**30),
        ("number", 3, 3.0),
        ("number", -0.5, -0.5),
        ("flag", True, True),
        ("text", "größer \u2028 'x'", "größer \u2028 'x'"),
        ("path", "a/b", Path("a/b")),
        ("path", Path("a/b"), Path("a/b")),
        ("color", "blue", Color.BLUE),
        ("choice", 3, 3),
        ("pair", [3, 4], (3, 4)),
        ("pair", (3, 4), (3, 4)),
        ("grid", [[1], [2, 3]], ((1,), (2, 3))),
        ("maybe", [1, 2], (1, 2)),
        ("maybe", None, None),
        ("either", 3, 3),
        ("either", [3], (3,)),
        ("auto", "auto", "auto"),
        ("auto", 3, 3.0),
        ("scalar", 3, 3),
        ("scalar", 3.5, 3.5),
        ("listed", [1], [1]),
        ("sequence", [1], (1,)),
        ("unique", ["a", "b", "a"], frozenset({"a", "b"})),
        ("table", {"a": 1}, {"a": 1.0}),
        ("free", {"a": [1, "x"]}, {"a": [1, "x"]}),
        ("bare", [1, "x"], (1, "x")),
        ("bounded", 3, 3),
        ("filled", [3], (3,)),
    ],
)
def test_a_value_of_the_right_type(option: str, raw: object, value: object):
    found = getattr(build(Kinds, {option: raw}, "k", CATALOG), option)
    assert found == value
    assert type(found) is type(value)


def test_every_type_survives_a_round_trip_through_toml_and_json():
    value = Kinds(
        path=Path("a/b"),
        color=Color.BLUE,
        choice=3,
        grid=((1,), (2, 3)),
        maybe=(),
        auto=0.5,
        unique=frozenset({"b", "a"}),
        table={"x": 1.5},
        free=[{"a": [1]}],
    )
    table = describe(value, CATALOG)
    assert build(Kinds, table, "k", CATALOG) == value
    assert build(Kinds, toml(tomli_w.dumps(table)), "k", CATALOG) == value
    assert build(Kinds, json.loads(json.dumps(table, allow_nan=False)), "k", CATALOG) == value
    assert table.keys() == {field.name for field in dataclasses.fields(Kinds)}


# -------------------------------------------------------------------------------------------------------- constructors


def test_what_a_constructor_refuses():
    assert error(PretextTask, {"name": "rot", "angles": [90, 90]}) == (
        "stages.pretrain.task.angles: must not repeat; found (90, 90); allowed: each angle once"
    )
    assert error(PretextTask, {"name": "rot", "weight": 13}) == "stages.pretrain.task: thirteen is unlucky"
    assert error(PretextTask, {"name": "rot", "weight": 14}) == "stages.pretrain.task: no fourteen"
    assert error(Trained, {"augment": {"crop_padding": -1}}, "stages.a").startswith(
        "stages.a.augment.crop_padding: must not be negative; found -1; "
    )
    assert error(Augment, {"crop_padding": -1}, "").startswith("crop_padding: must not be negative")
    with pytest.raises(RecipeError) as caught:
        build(PretextTask, {"name": "rot", "weight": 13}, PATH, CATALOG)
    assert isinstance(caught.value.__cause__, ValueError)


# -------------------------------------------------------------------------------------------------------- nested tables


def test_tables_inside_are_built_by_the_annotation():
    table = toml(
        """
        schedule = { name = "step", milestones = [3, 6] }
        augment = { crop_padding = 4 }
        chain = ["flat", { name = "step", gamma = 0.5 }]
        step = { gamma = 0.3 }
        [optimizer]
        name = "sgd"
        lr = 0.5
        [named]
        a = "flat"
        b = { name = "step" }
        """
    )
    assert build(Trained, table, "t", CATALOG) == Trained(
        optimizer=Sgd(lr=0.5),
        schedule=Step(milestones=(3, 6)),
        augment=Augment(crop_padding=4),
        chain=(Flat(), Step(gamma=0.5)),
        named={"a": Flat(), "b": Step()},
        step=Step(gamma=0.3),
    )
    assert build(Trained, {}, "t", CATALOG) == Trained()
    assert build(Trained, {"optimizer": "adam", "schedule": "flat"}, "t", CATALOG) == Trained(schedule=Flat())


def test_an_optimizer_for_each_phase():
    table = toml('[optimizer]\ngenerator = { name = "sgd", lr = 1 }\ndiscriminator = "adam"')
    trained = build(Trained, table, "t", CATALOG)
    assert trained == Trained(optimizer={"generator": Sgd(lr=1.0), "discriminator": Adam()})
    assert build(Trained, describe(trained, CATALOG), "t", CATALOG) == trained


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"optimizer": {"name": "sgdd"}}, "t.optimizer.name: no optimizer is called 'sgdd'; allowed: adam, sgd; did you mean 'sgd'?"),
        ({"optimizer": "sgdd"}, "t.optimizer: no optimizer is called 'sgdd'; allowed: adam, sgd; did you mean 'sgd'?"),
        ({"optimizer": {"name": "adam", "lr": "x"}}, "t.optimizer.lr: must be a number; found 'x'"),
        ({"optimizer": {"g": {"name": "adam", "lrr": 1}}}, "t.optimizer.g.lrr: unknown option; did you mean 'lr'?"),
        ({"optimizer": {"g": {"lr": 1.0}}}, "t.optimizer.g.name: missing; required; allowed: adam, sgd"),
        ({"optimizer": {"g": "adan"}}, "t.optimizer.g: no optimizer is called 'adan'; allowed: adam, sgd; did you mean 'adam'?"),
        (
            {"optimizer": {"lr": 0.1}},
            "t.optimizer: must be an optimizer (its name, or a table with its name and options) or a table of optimizers; found {'lr': 0.1}; add its name",
        ),
        (
            {"optimizer": 3},
            "t.optimizer: must be an optimizer (its name, or a table with its name and options) or a table of optimizers; found 3",
        ),
        ({"schedule": {"gamma": 1.0}}, "t.schedule.name: missing; required; allowed: flat, step"),
        ({"schedule": {"name": "step", "milestones": ["3"]}}, "t.schedule.milestones[0]: must be an integer; found '3'"),
        ({"schedule": 3}, "t.schedule: must be a schedule (its name, or a table with its name and options); found 3"),
        ({"schedule": "adam"}, "t.schedule: no schedule is called 'adam'; allowed: flat, step; 'adam' is an optimizer"),
        ({"chain": ["flat", "flt"]}, "t.chain[1]: no schedule is called 'flt'; allowed: flat, step; did you mean 'flat'?"),
        ({"chain": "flat"}, "t.chain: must be an array of schedules; found 'flat'; write [\"flat\"]"),
        ({"named": {"a": {"name": "step", "gama": 1}}}, "t.named.a.gama: unknown option; did you mean 'gamma'?"),
        ({"named": {"two words": 3}}, 't.named."two words": must be a schedule (its name, or a table with its name and options); found 3'),
        ({"named": "flat"}, "t.named: must be a table of schedules; found 'flat'"),
        ({"augment": {"flip": True}}, "t.augment.flip: unknown option; allowed: crop_padding, horizontal_flip"),
        ({"augment": True}, "t.augment: must be a table; found True"),
        ({"step": {"name": "flat"}}, "t.step.name: must name a Step; found 'flat'"),
    ],
)
def test_errors_in_tables_inside(table: dict, message: str):
    assert error(Trained, table, "t") == message


@dataclass(frozen=True, kw_only=True)
class Unions:
    rate: Schedule | float = 1.0
    reversed_: Mapping[str, OptimizerFactory] | OptimizerFactory = field(default_factory=Adam)
    two: Schedule | OptimizerFactory = field(default_factory=Flat)
    data: Augment | Trained = field(default_factory=Augment)
    deep: tuple[Schedule | int, ...] | None = None


def test_unions_are_distinguished_by_shape():
    def value(option: str, raw: object) -> object:
        return getattr(build(Unions, {option: raw}, "u", CATALOG), option)

    assert value("rate", 2) == 2.0
    assert value("rate", "flat") == Flat()
    assert value("rate", {"name": "step"}) == Step()
    assert value("reversed_", {"name": "adam"}) == Adam()
    assert value("reversed_", {"g": "adam"}) == {"g": Adam()}
    assert value("two", "adam") == Adam()
    assert value("two", {"name": "step"}) == Step()
    assert value("data", {"optimizer": "adam"}) == Trained()
    assert value("deep", [1, "flat"]) == (1, Flat())
    assert error(Unions, {"rate": "flt"}, "u") == "u.rate: no schedule is called 'flt'; allowed: flat, step; did you mean 'flat'?"
    assert error(Unions, {"two": "x"}, "u") == (
        "u.two: must be a schedule (its name, or a table with its name and options) "
        "or an optimizer (its name, or a table with its name and options); found 'x'"
    )
    assert error(Unions, {"deep": [1, True]}, "u") == (
        "u.deep[1]: must be a schedule (its name, or a table with its name and options) or an integer; found True"
    )


# ------------------------------------------------------------------------------------------------- classes that are wrong


def plugin_error(cls: type, table: dict) -> str:
    return refusal(PluginError, build, cls, table, "p", CATALOG)


def test_an_option_without_annotation():
    @dataclass(frozen=True, kw_only=True)
    class Forgetful(SomeTask):
        angles = (0, 90)
        seed: int = 0

    assert plugin_error(Forgetful, {"angles": [0]}) == "Forgetful.angles: the option has no annotation; annotate it with its type"
    assert build(Forgetful, {"seed": 1}, "p", CATALOG) == Forgetful(seed=1)

    class Plain(SomeTask):
        def __init__(self, *, angles=(0, 90)):
            self.angles = angles

    assert plugin_error(Plain, {}) == "Plain.angles: the option has no annotation; annotate it with its type"


def test_a_class_need_not_be_a_dataclass_to_be_built():
    class Plain(SomeTask):
        def __init__(self, angles: tuple[int, ...], *, seed: int = 0):
            self.given = (angles, seed)

    class Empty(SomeTask):
        pass

    assert build(Plain, {"angles": [1]}, "p", CATALOG).given == ((1,), 0)
    assert error(Plain, {}, "p") == "p.angles: missing; required; allowed: an array of integers"
    assert isinstance(build(Empty, {}, "p", CATALOG), Empty)
    with pytest.raises(PluginError, match="Empty cannot be written into a recipe; make it a frozen dataclass"):
        describe(Empty(), CATALOG)


def test_an_alias_is_the_type_behind_it():
    aliased = dataclasses.make_dataclass("Aliased", [("x", Angles), ("y", Nested)], frozen=True, kw_only=True)
    built = build(aliased, {"x": [1], "y": {"name": "adam"}}, "p", CATALOG)
    assert built == aliased(x=(1,), y=Adam())
    assert build(aliased, {"x": [1], "y": [2]}, "p", CATALOG) == aliased(x=(1,), y=(2,))
    assert error(aliased, {"x": 1, "y": []}, "p") == "p.x: must be an array of integers; found 1; write [1]"


def test_name_is_reserved():
    @dataclass(frozen=True, kw_only=True)
    class Named:
        name: str = "x"

    assert plugin_error(Named, {"name": "y"}) == "Named.name: an option cannot be called 'name', which chooses the class; rename it"


def test_annotations_that_cannot_be_read_or_held():
    unknown = dataclasses.make_dataclass("Unknown", [("x", "NoSuchType")])

    @dataclass(frozen=True, kw_only=True)
    class Odd:
        net: torch.nn.Module | None = None
        call: Callable[[int], int] = abs
        backbone: Backbone | None = None
        constrained: Annotated[int, pydantic.AfterValidator(lambda value: value)] = 1

    assert plugin_error(unknown, {"x": 1}).startswith("Unknown: its annotations cannot be read (name 'NoSuchType' is not defined); ")
    assert plugin_error(Odd, {"net": 3}) == "p.net: a recipe cannot hold values of the type Module; annotate the option otherwise"
    assert plugin_error(Odd, {"backbone": {"name": "net", "depth": 1}}).startswith("p.backbone: a backbone cannot be an option")
    assert error(Odd, {"call": 3}, "p") == "p.call: must be callable; found 3"
    assert build(Odd, {"constrained": 3}, "p", CATALOG).constrained == 3


def test_a_constraint_of_ones_own():
    def even(value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value

    @dataclass(frozen=True, kw_only=True)
    class Even:
        x: Annotated[int, pydantic.AfterValidator(even)] = 0

    assert error(Even, {"x": 3}, "p") == "p.x: must be even; found 3"


# ------------------------------------------------------------------------------------------------------------- describe


@pytest.mark.parametrize(
    "value",
    [
        Rot(),
        Rot(angles=(0, 180), layer="conv2", mode="slow"),
        Sgd(lr=0.1),
        Augment(crop_padding=4, horizontal_flip=True),
        Trained(),
        Trained(schedule=Step(milestones=(1, 2)), chain=(Flat(), Step()), named={"a": Flat()}, optimizer={"g": Sgd(lr=1.0), "d": Adam()}),
        Unions(rate=Step(), deep=(1, Flat())),
    ],
)
def test_describe_is_the_inverse_of_build(value: object):
    table = describe(value, CATALOG)
    assert build(type(value), toml(tomli_w.dumps(table)), "", CATALOG) == value
    assert build(type(value), json.loads(json.dumps(table)), "", CATALOG) == value


def test_describe_names_classes_and_fills_defaults_in():
    assert describe(Rot(), CATALOG) == {"name": "rot", "angles": [0, 90, 180, 270], "weight": 1.0, "shuffle": False, "mode": "fast"}
    assert describe(Trained(schedule=Flat()), CATALOG) == {
        "optimizer": {"name": "adam", "lr": 0.1},
        "schedule": {"name": "flat"},
        "augment": {"crop_padding": 0, "horizontal_flip": False},
        "chain": [],
        "named": {},
        "step": {"name": "step", "milestones": [], "gamma": 0.1},
    }
    assert describe(Flat(), Catalog())["name"] == f"{__name__}:Flat"


def test_what_describe_refuses():
    @dataclass(frozen=True, kw_only=True)
    class Cleared:
        layer: str | None = "conv2"
        values: Any = ()

    def message(value: object) -> str:
        return refusal(PluginError, describe, value, CATALOG)

    assert message(Cleared(layer=None)) == "Cleared.layer: None cannot be written into a recipe; make None its default"
    assert message(Cleared(values=[1, math.inf])) == (
        "Cleared.values[1]: cannot be written into a recipe; found inf; allowed: strings, finite numbers, true, false, arrays and tables"
    )
    assert message(Cleared(values={"a": {"b": None}})).startswith("Cleared.values.a.b: cannot be written into a recipe; found None; ")
    assert message(Cleared(values=object())).startswith("Cleared.values: cannot be written")


# ------------------------------------------------------------------------------------------------------------ backbones


def test_a_backbone_is_described_without_being_built():
    options = build_backbone_options(toml('name = "net"\ndepth = 3\nwidths = [1]'), "backbone", CATALOG)
    assert (options.cls, options.name) == (Net, "net")
    assert options.options == {"depth": 3, "widths": [1], "act": "relu", "stem": {"crop_padding": 0, "horizontal_flip": False}}
    assert json.loads(json.dumps(options.options)) == options.options
    net = options.build(SPEC)
    assert isinstance(net, Net)
    assert net.given == (3, (1,), "relu", Augment(), None)
    assert net.image == SPEC
    again = build_backbone_options({"name": options.name, **options.options}, "stages.a.backbone", CATALOG)
    assert again == options
    rebuilt = again.build(SPEC)
    assert isinstance(rebuilt, Net)
    assert rebuilt.given == net.given
    assert again != build_backbone_options({"name": "net", "depth": 4}, "backbone", CATALOG)


def test_errors_in_a_backbones_options():
    def message(table: object, path: str = "backbone") -> str:
        return refusal(RecipeError, lambda: build_backbone_options(table, path, CATALOG).build(SPEC))

    assert message("net") == "backbone.depth: missing; required; allowed: an integer"
    assert message("nett") == "backbone: no backbone is called 'nett'; allowed: net; did you mean 'net'?"
    assert message({"depth": 3}) == "backbone.name: missing; required; allowed: net"
    assert message({"name": "net", "depht": 3}) == "backbone.depht: unknown option; did you mean 'depth'?"
    assert message({"name": "net", "image": 3}) == "backbone.image: unknown option; allowed: depth, widths, act, stem, pretrained"
    assert message({"name": "net", "depth": 1, "training": True}).startswith("backbone.training: unknown option; ")
    assert message({"name": "net", "depth": "3"}) == "backbone.depth: must be an integer; found '3'"
    assert message({"name": "net", "depth": 1, "stem": {"crop_padding": -1}}).startswith(
        "backbone.stem.crop_padding: must not be negative; found -1"
    )
    assert message({"name": "net", "depth": 10}, "stages.x.backbone") == "stages.x.backbone.depth: is too deep; found 10; allowed: up to 9"
    assert message({"name": "net", "depth": 7}) == "backbone: seven is not possible"


class Bare(Net):
    def __init__(self, image: ImageSpec):
        super().__init__(image, depth=1)


class Greedy(Net):
    def __init__(self, image: ImageSpec, **kwargs: int):
        super().__init__(image, depth=kwargs["depth"])


class Listed(Net):
    def __init__(self, image: ImageSpec, *widths: int):
        super().__init__(image, depth=1, widths=widths)


class Imageless(Net):
    def __init__(self, depth: int = 3):
        super().__init__(SPEC, depth=depth)


class Unannotated(Net):
    def __init__(self, image: ImageSpec, *, depth=3):
        super().__init__(image, depth=depth)


def test_constructors_that_cannot_be_checked():
    def message(cls: type) -> str:
        return refusal(PluginError, build_backbone_options, "x", "backbone", Catalog.of(backbones={"x": cls}))

    assert message(Greedy) == (
        "Greedy: the constructor takes **kwargs: int, so options cannot be checked; name every option, annotated and keyword-only"
    )
    assert message(Listed).startswith("Listed: the constructor takes *widths: int, so options cannot be checked; ")
    assert message(Imageless) == ("Imageless: the constructor of a backbone must take 'image' first; def __init__(self, image, *, ...)")
    assert message(Unannotated) == "Unannotated.depth: the option has no annotation; annotate it with its type"


def test_a_backbone_without_options():
    options = build_backbone_options("bare", "backbone", Catalog.of(backbones={"bare": Bare}))
    assert options == BackboneOptions(cls=Bare, name="bare", options={})
    assert isinstance(options.build(SPEC), Bare)


def test_a_name_may_also_be_an_address():
    address = "torch.nn:Linear"
    with pytest.raises(RecipeError, match=r"^backbone\.name: 'torch\.nn:Linear' must be a subclass of Backbone"):
        build_backbone_options({"name": address}, "backbone", Catalog(allow_code=True))
    with pytest.raises(RecipeError, match=r"^backbone\.name: 'torch\.nn:Linear' is code outside the catalog, from .*; if you trust it: "):
        build_backbone_options({"name": address}, "backbone", CATALOG)
