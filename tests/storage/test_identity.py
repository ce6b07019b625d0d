import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from sslkit import SGD, Augment, PluginError, Schedule, TrainingOptions
from sslkit.storage.identity import differences, fingerprint, plain


class Mode(Enum):
    FAST = "fast"


@dataclass(frozen=True)
class Everything:
    path: Path = Path("images/train")
    mode: Mode = Mode.FAST
    names: frozenset[str] = frozenset({"b", "a", "c"})
    augment: Augment = field(default_factory=lambda: Augment(crop_padding=4))
    optimizer: Any = None


def test_options_become_plain_values():
    options = plain(Everything(optimizer={"generator": SGD(lr=0.5)}))
    assert options["class"] == f"{__name__}:Everything"
    assert (options["path"], options["mode"], options["names"]) == ("images/train", "fast", ["a", "b", "c"])
    assert options["augment"] == {"class": "sslkit.contract.images:Augment", "crop_padding": 4, "horizontal_flip": False}
    assert options["optimizer"]["generator"]["lr"] == 0.5
    assert json.loads(json.dumps(options)) == options
    assert plain({1: (2, [None, (True, "x")])}) == {"1": [2, [None, [True, "x"]]]}


class Half(Schedule):
    def scale(self, epoch: float, num_epochs: float) -> float:
        return 0.5


def test_an_object_whose_options_nobody_knows_is_refused():
    message = r"^Half cannot be an option: .*; found <.*Half object at .*>; make it a frozen dataclass of"
    with pytest.raises(PluginError, match=message):
        plain(TrainingOptions(schedule=Half()))


def test_a_fingerprint_depends_on_values_and_not_on_their_order():
    one = fingerprint({"task": {"angles": [0, 90]}, "seed": 0})
    assert fingerprint({"seed": 0, "task": {"angles": [0, 90]}}) == one
    assert len(one) == 64
    assert fingerprint({"seed": 0, "task": {"angles": [90, 0]}}) != one
    assert fingerprint({"seed": "0", "task": {"angles": [0, 90]}}) != one


def test_differences_name_the_keys_with_both_values():
    before = {"seed": 0, "task": {"class": "a:RotNet", "angles": [0, 90]}, "training": {"epochs": 1, "optimizer": {"lr": 0.1}}}
    after = {"seed": 0, "task": {"class": "a:RotNet", "angles": [0, 180]}, "training": {"epochs": 1, "optimizer": {"momentum": 0.9}}}
    assert differences(before, after) == [
        "task.angles: [0, 90] -> [0, 180]",
        "training.optimizer.lr: 0.1 -> 'not set'",
        "training.optimizer.momentum: 'not set' -> 0.9",
    ]
    assert differences(before, before) == []
    assert differences({"options": {"depth": None}}, {"options": {}}) == ["options: 'not set' -> {}", "options.depth: None -> 'not set'"]


def test_code_is_named_alone():
    before, after = {"code": {"my_task.py": "1a", "old.py": "2b"}, "seed": 0}, {"code": {"my_task.py": "3c", "new": "4d"}, "seed": 1}
    assert differences(before, after) == ["code of my_task.py, new, old.py", "seed: 0 -> 1"]
    assert differences({"code": {}}, {"code": {"my_task.py": "1a"}}) == ["code of my_task.py"]
    many = {"code": {f"{letter}.py": letter for letter in "abcdefgh"}}
    assert differences({"code": {}}, many) == ["code of a.py, b.py, c.py, d.py, e.py and 3 more"]
