import copy
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkit import Augment, Constant, OptionError, PluginError, RunFailedError, TrainingOptions
from sslkit.storage.tensor_file import load_tensors
from sslkit.training.optimizer_state import UnsavableError, put_together, same, take_apart
from sslkit.training.phase_optimizers import build_optimizers, parameters_of
from tests.contract.families import FAMILIES, build
from tests.training.brightness import CPU, Brightness, assert_same_state, interrupt, logged, run, watched
from tests.training.odd_optimizers import Odd

HERE = r" of odd_optimizers\.py"


class Grouped(Brightness):
    """A head at half the rate, and a bias that gets its first gradient in the third step."""

    def __init__(self) -> None:
        super().__init__(dropout=0.2)
        self.late = nn.Parameter(torch.zeros(1))

    def parameter_groups(self) -> dict[str, list[dict]]:
        rest = [parameter for name, parameter in self.named_parameters() if not name.startswith("head.")]
        return {"main": [{"params": rest}, {"params": list(self.head.parameters()), "lr_scale": 0.5}]}

    def on_before_step(self, phase, context) -> None:
        self._late = context.step >= 2

    def forward(self, views, step):
        output = super().forward(views, step)
        return output._replace(loss=output.loss + (self.late - 1).square().sum()) if self.training and self._late else output


def training(kind: str, **options: Any) -> TrainingOptions:
    options = {"epochs": 3, "batch_size": 8, "schedule": Constant(), "augment": Augment(crop_padding=1), **options}
    return TrainingOptions(optimizer=Odd(kind=kind), **options)


# ---------------------------------------------------------------------------------------------------------------- resuming

SOUND = ["ScheduleFree", "DistanceFree", "Nested", "Global", "Divided", "rate in a tensor", "amsgrad", "RMSprop", "SGD", "AdamW", "NAdam"]
SOUND += ["RAdam", "Adamax", "Adagrad", "Adadelta", "ASGD", "Rprop", "Adafactor"]


@pytest.mark.parametrize("kind", SOUND)
def test_whatever_an_optimizer_keeps_a_resumed_fit_ends_with_the_same_bits(kind: str, tmp_path: Path):
    whole, resumed = Grouped(), Grouped()
    options: dict[str, Any] = {"channels_last": kind in {"Nested", "AdamW"}}
    expected = run(whole, training(kind), **options)
    for steps in (2, 3):  # before a parameter gets its first gradient, and within an epoch after that
        interrupt(steps, Grouped(), training(kind), folder=tmp_path, **options)
    assert run(resumed, training(kind), folder=tmp_path, **options) == expected
    assert_same_state(resumed, whole)


def strides(value: Any) -> list[tuple[int, ...]]:
    if isinstance(value, Tensor):
        return [value.stride()]
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [found for part in inner for found in strides(part)]


class Watching(Grouped):
    """Keeps the state of the optimizer before the sixth step."""

    def __init__(self, kept: list[dict]) -> None:
        super().__init__()
        self._kept = kept

    def on_before_step(self, phase, context) -> None:
        super().on_before_step(phase, context)
        if context.step == 5:
            self._kept.append(copy.deepcopy(context.optimizers["main"].state_dict()))


@pytest.mark.parametrize("kind", ["ScheduleFree", "DistanceFree", "Nested", "AdamW"])
def test_a_restored_state_is_equal_in_values_types_and_memory_layout(kind: str, tmp_path: Path):
    """A matrix that lies on its side is multiplied by another kernel, which rounds otherwise."""
    kept: list[dict] = []
    options: dict[str, Any] = {"channels_last": kind == "AdamW"}
    run(Watching(kept), training(kind), **options)
    interrupt(5, Watching([]), training(kind), folder=tmp_path, **options)
    run(Watching(kept), training(kind), folder=tmp_path, **options)
    whole, resumed = kept
    assert same(resumed, whole)
    assert strides(resumed) == strides(whole)
    assert {type(key) for key in resumed["state"]} <= {int}
    _, state = load_tensors(tmp_path / "checkpoint-000000009.safetensors")
    json.dumps(state, allow_nan=False)


def test_an_optimizer_that_loads_less_than_it_saved_is_found_out(tmp_path: Path):
    interrupt(4, Brightness(), training("Forgetful"), folder=tmp_path)
    message = rf"^Forgetful{HERE}: load_state_dict does not restore what state_dict gave, so a run with it cannot be resumed$"
    with pytest.raises(RunFailedError, match=message):
        run(Brightness(), training("Forgetful"), folder=tmp_path)


def test_a_state_that_cannot_be_saved_is_refused_after_the_first_step(tmp_path: Path):
    events: list = []
    message = (
        rf"^Callback{HERE}: its state cannot be saved: optimizer\.main\.state\.0\.rule\.step is of the type builtins\.function; "
        "allowed: numbers, strings, None, plain tensors, and dicts, lists and tuples of them$"
    )
    with pytest.raises(PluginError, match=message):
        run(Brightness(), training("Callback"), folder=tmp_path, emit=events.append)
    assert logged(events) == []
    assert run(Brightness(), training("Callback")).steps == 9, "without a folder nothing is to be saved"


# --------------------------------------------------------------------------------------------------------- nested values


NESTED = {
    0: [1, True, None, "text", 0.1, -0.0, float("inf"), float("nan"), 10**30],
    "a.b": ({"deep": [torch.arange(3), (torch.ones(2, 3).mT, torch.tensor(1.5, dtype=torch.float64))]}, []),
    "a": {"b": torch.zeros(2, dtype=torch.bool)},
    None: {1.5: torch.zeros(0, 3), (1, 2): torch.complex(torch.ones(2), torch.ones(2))},
    "dtype": torch.float16,
    "nan": torch.tensor([float("nan"), 1.0]),
    "channels_last": torch.arange(48.0).reshape(2, 3, 2, 4).to(memory_format=torch.channels_last),
    "expanded": torch.ones(1).expand(3),
}


def test_nested_values_survive_a_file_of_json_and_tensors():
    plain, tensors = take_apart(NESTED, "x")
    found = put_together(json.loads(json.dumps(plain, allow_nan=False)), {name: t.contiguous() for name, t in tensors.items()}, CPU)
    assert same(found, NESTED)
    assert [type(key) for key in found] == [type(key) for key in NESTED]
    assert isinstance(found["a.b"], tuple)
    assert str(found[0][5]) == "-0.0"
    assert found["dtype"] is torch.float16
    assert found["a.b"][0]["deep"][1][0].stride() == NESTED["a.b"][0]["deep"][1][0].stride()
    assert found["channels_last"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("value", [object(), {1}, len, torch.zeros(2).to_sparse(), b"bytes", 1j])
def test_what_cannot_be_saved_is_named(value: object):
    kind = re.escape(f"{type(value).__module__}.{type(value).__qualname__}")
    with pytest.raises(UnsavableError, match=rf"^x\.a\[1\] is of the type {kind}; allowed: numbers"):
        take_apart({"a": [0, value]}, "x")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(2).double()),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), -torch.zeros(2)),
        ({"a": 1}, {"a": 1, "b": 2}),
        ([1, 2], [1]),
        (0.1, 0.2),
        (torch.zeros(()), 0.0),
    ],
    ids=str,
)
def test_what_differs_is_not_the_same(one: Any, other: Any):
    assert not same(one, other)
    assert same(one, one)


# ---------------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no first group", r"^_Plain{here}: of phase 'main' it leaves out late, backbone\.stem\.0\.weight, .* and \d more$"),
        ("no vectors", r"^_Plain{here}: of phase 'main' it leaves out late, "),
        ("a stranger", r"^_Plain{here}: of phase 'main' it was not asked for a tensor that is no parameter of the objective$"),
        ("merged", r"^_Plain{here}: puts parameters of different lr_scale into one group; "),
        ("rateless", r"^_Plain{here}: has a group without a number 'lr'; the loop sets the rate of every group before each step$"),
        ("closure", r"^Odd{here}: LBFGS computes the loss again within a step, which the loop does not do; build an optimizer whose step"),
        ("nothing", r"^Odd{here}: build must return a torch\.optim\.Optimizer; found None$"),
    ],
)
def test_an_optimizer_that_trains_something_else_than_it_was_asked_to_is_refused(kind: str, message: str):
    objective = Grouped()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    with pytest.raises(PluginError, match=message.replace("{here}", HERE)):
        run(objective, training(kind))
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.state_dict().items())


class Doubled(Brightness):
    heldout_phase = None
    phases = ("one", "other")

    def parameter_groups(self):
        head = {"one": self.head.parameters(), "other": ()}
        return {phase: [{"params": [*self.backbone.parameters(), *head[phase]]}] for phase in self.phases}


def spoilt(change: Callable[[Grouped, list[dict]], Any], **attributes: Any) -> Grouped:
    """With what ``change`` makes of the groups of its phase."""
    objective = Grouped()
    groups = change(objective, objective.parameter_groups()["main"])
    for name, value in {"parameter_groups": lambda: groups if isinstance(groups, dict) else {"main": groups}, **attributes}.items():
        setattr(objective, name, value)
    return objective


@pytest.mark.parametrize(
    ("build_objective", "message"),
    [
        (
            lambda: spoilt(lambda _, groups: groups[1:]),
            r"no phase trains late, backbone\.stem\.0\.weight, .* more; add it to parameter_groups, or set requires_grad_\(False\)$",
        ),
        (Doubled, r"several phases train backbone\.stem\.0\.weight, .* more; leave it to one phase of parameter_groups$"),
        (
            lambda: spoilt(lambda _, groups: groups, frozen=("head",)),
            r"a phase trains, and frozen names, head\.weight, head\.bias; take it out of one of the two$",
        ),
        (
            lambda: spoilt(lambda _, groups: [*groups, {"params": [nn.Parameter(torch.zeros(2))]}]),
            r"a phase trains a tensor that is no parameter of the objective; register it as a parameter: a checkpoint would lack it$",
        ),
        (
            lambda: spoilt(lambda _, groups: {"mian": groups}),
            r"parameter_groups must have one entry for each phase; found \['mian'\]; allowed: main$",
        ),
        (
            lambda: spoilt(lambda objective, _: list(objective.parameters())),
            r"parameter_groups must give each phase a list of dicts with the key 'params'; found ",
        ),
        (
            lambda: spoilt(lambda *_: [{"params": None}]),
            r"parameter_groups must give parameters under 'params'; found None; allowed: a tensor, or several$",
        ),
        (
            lambda: spoilt(lambda *_: [{"params": ["late"]}]),
            r"parameter_groups must give parameters under 'params'; found \['.*'\]; allowed: a tensor, or several$",
        ),
        (
            lambda: spoilt(lambda _, groups: [groups[0], {"params": groups[1]["params"], "lr_scal": 0.5}]),
            r"parameter_groups has an unknown key; found 'lr_scal'; allowed: params, lr_scale, weight_decay, final_weight_decay, lr; did you mean 'lr_scale'\?$",
        ),
        (
            lambda: spoilt(lambda _, groups: [groups[0], {**groups[1], "lr_scale": -0.5}]),
            r"parameter_groups has an lr_scale that is no rate; found -0\.5; allowed: 0 or more$",
        ),
    ],
)
def test_every_trainable_parameter_is_in_exactly_one_optimizer(build_objective: Callable[[], Brightness], message: str):
    with pytest.raises(PluginError, match=rf"^(Grouped|Doubled) of test_phase_optimizers\.py: {message}"):
        run(build_objective(), training("_Plain"))


def test_what_is_frozen_is_trained_by_nobody_even_if_it_asks_for_a_gradient():
    class Frozen(Brightness):
        frozen = ("backbone.stem",)

    objective = Frozen()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    run(objective, training("SGD"))
    moved = [name for name, tensor in objective.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved
    assert not any(name.startswith("backbone.stem") for name in moved)


def test_an_optimizer_for_a_phase_that_there_is_not_is_refused():
    gan = build(FAMILIES["gan"])
    optimizers = {"discriminator": Odd(), "generater": Odd()}
    message = r"^optimizer: is given for an unknown phase; found 'generater'; allowed: .*; did you mean 'generator'\?$"
    with pytest.raises(OptionError, match=message):
        run(gan, TrainingOptions(epochs=1, batch_size=8, optimizer=optimizers))


def test_groups_may_be_divided_named_and_hold_options_of_the_optimizer():
    class Named(Grouped):
        def parameter_groups(self):
            first, second = super().parameter_groups()["main"]
            return {"main": [{"params": iter(first["params"]), "momentum": 0.5}, {**second, "weight_decay": 0.1}]}

    objective = Named()
    optimizer = build_optimizers(objective, training("SGD").optimizers_for(["main"]))["main"]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.5, 0.0]
    divided = build_optimizers(Grouped(), training("Divided").optimizers_for(["main"]))["main"]
    assert len(divided.param_groups) == 4
    head = divided.param_groups[1]
    assert head["base_lr"] == head["lr"] * 0.5
    assert len(parameters_of(divided)) == len(list(Grouped().parameters()))


def test_a_rate_in_a_tensor_is_logged_as_a_number():
    events = watched(Brightness(), training("rate in a tensor", schedule=Constant(warmup_epochs=2)), log_every=1)
    rates = logged(events, "lr")
    assert {type(rate) for rate in rates} == {float}
    assert rates == pytest.approx([0.01 * min(1, step / 6) for step in range(9)])
