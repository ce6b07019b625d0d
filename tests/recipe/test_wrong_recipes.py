"""Whatever is wrong with a recipe is said in one line, with the dotted path of the key at fault, before anything is computed."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sslkit import RecipeError, load_recipe
from sslkit.recipe.sweep import identity
from sslkit.run.networks import backbone_image
from sslkit.run.preflight import check_recipe
from tests.recipes import changed, refusal

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sslkit_command: Callable[..., Any]) -> Refused:
    """Checks a recipe, ``tiny.toml`` with overrides unless said otherwise, and returns the one line that it is refused with."""
    (tmp_path / "tiny.toml").write_text(changed("name=tiny"))
    (tmp_path / "my_nets.py").write_text("Plain = 3\n\nclass NoBackbone: ...\n")
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)

    def check(*overrides: str, path: str = "tiny.toml") -> str:
        printed = sslkit_command("check", "--allow-code", path, *overrides)
        assert (printed.code, printed.out) == (2, ""), printed
        assert re.fullmatch(r"error: .+\n", printed.err)
        return printed.err.removeprefix("error: ").removesuffix("\n")

    return check


def assert_message(found: str, expected: str) -> None:
    """``...`` stands for what depends on the machine or is long."""
    assert re.fullmatch(".*".join(map(re.escape, expected.split("..."))), found), found


def optimizer(options: str) -> str:
    return f"stages.pretrain.optimizer={{ {options} }}"


def schedule(options: str) -> str:
    return f"stages.pretrain.schedule={{ {options} }}"


def evaluator(options: str) -> str:
    return f"stages.probe.evaluator={{ {options} }}"


TYPOS = {
    'stages={ tables = { task = "rotnet" } }': "stages.tables: is a folder that every run has; found 'tables'; choose another name",
    "bakbone=1": "bakbone: unknown key; allowed: name, seed, data, ...; did you mean 'backbone'...",
    "data.image_sise=16": "data.image_sise: unknown option; did you mean 'image_size'?",
    "backbone.num_block=3": "backbone.num_block: unknown option; did you mean 'num_blocks'?",
    "backbone.model=resnet18": "backbone.model: unknown option; allowed: num_blocks, width, pool_after_conv3",
    "stages.pretrain.epoch=1": "stages.pretrain.epoch: unknown key; allowed: task, evaluate_every, ...; did you mean 'epochs'...",
    "stages.pretrain.task.angels=[0, 90]": "stages.pretrain.task.angels: unknown option; did you mean 'angles'?",
    "stages.probe.wieghts=random": "stages.probe.wieghts: unknown key; allowed: evaluator, weights, ...; did you mean 'weights'...",
    "stages.probe.evaluator.layer=[]": "stages.probe.evaluator.layer: unknown option; did you mean 'layers'?",
    "stages.pretrain.augment.crop_paddings=4": "stages.pretrain.augment.crop_paddings: unknown option; did you mean 'crop_padding'?",
    optimizer('name = "sgd", learning_rate = 0.1'): "stages.pretrain.optimizer.learning_rate: unknown option;"
    " allowed: lr, weight_decay, final_weight_decay, exclude_norm_and_bias, momentum, nesterov",
    optimizer('name = "lars", flavor = "larc"'): "stages.pretrain.optimizer.flavor: unknown option; did you mean 'flavour'?",
    optimizer('name = "lars", flavour = "lars"'): "stages.pretrain.optimizer.flavour: unknown choice; found 'lars';"
    " allowed: 'classic', 'larc', 'larc_clip'...",
    "stages.pretrain.lr_scaling=cubic": "stages.pretrain.lr_scaling: unknown choice; found 'cubic'; allowed: 'none', 'linear', 'sqrt'...",
    "stages.pretrain.accumulate_batches=7": "stages.pretrain.accumulate_batches: must divide batch_size, ..., into equal parts; found 7",
    schedule('name = "step", milestone = [1]'): "stages.pretrain.schedule.milestone: unknown option; did you mean 'milestones'?",
    'paper={ "prob.conv2.top1" = 1.0 }': "paper: not a metric of a stage; found 'prob.conv2.top1';"
    " allowed: pretrain.<metric>, probe.<metric>; did you mean 'probe'?",
    'margins={ "a b" = ["probe.conv2.top1", "prob.conv2.top1"] }': "margins.\"a b\": not a metric of a stage; found 'prob.conv2.top1';"
    " allowed: pretrain.<metric>, probe.<metric>; did you mean 'probe'?",
}

WRONG_TYPES = {
    'stages.pretrain.epochs="100"': "stages.pretrain.epochs: must be an integer; found '100'",
    "stages.pretrain.epochs=1.5": "stages.pretrain.epochs: must be an integer; found 1.5",
    "stages.pretrain.epochs=true": "stages.pretrain.epochs: must be an integer; found True",
    "backbone.width=true": "backbone.width: must be a number; found True",
    "stages.pretrain.augment.horizontal_flip=1": "stages.pretrain.augment.horizontal_flip: must be true or false; found 1",
    "stages.probe.evaluator.layers=conv2": "stages.probe.evaluator.layers: must be an array of strings; found 'conv2'; write [\"conv2\"]",
    "stages.pretrain.task.angles=90": "stages.pretrain.task.angles: must be an array of numbers; found 90; write [90]",
    "seed=-1": "seed: must be an integer, 0 or more; found -1",
    "seed=true": "seed: must be an integer, 0 or more; found True",
    "seed=0.5": "seed: must be an integer, 0 or more; found 0.5",
    "stages.pretrain.evaluate_every=true": "stages.pretrain.evaluate_every: must be an integer, 1 or more; found True",
    "stages=3": "stages: must be a table; found 3",
    "stages.pretrain=3": "stages.pretrain: must be a table; found 3",
    "stages.pretrain.task=3": "stages.pretrain.task: must be a pretext task (its name, or a table with its name and options); found 3",
    "backbone=3": "backbone: must be a backbone (its name, or a table with its name and options); found 3",
    "stages.probe.weights=3": "stages.probe.weights: no such stage; found 3; allowed: pretrain, random, backbone, run:PATH#stage, file:PATH",
    optimizer("lr = 0.1"): "stages.pretrain.optimizer: must be an optimizer (its name, or a table with its name and options)"
    " or a table of optimizers; found {'lr': 0.1}; add its name",
    "observers=3": 'observers: must be an array of tables; found 3; allowed: [{ name = "..." }]',
    "paper=3": "paper: must be a table; found 3",
    'paper={ "probe.conv2.top1" = "91" }': "paper.\"probe.conv2.top1\": must be a number in percent; found '91'",
    'paper={ "probe.conv2.top1" = true }': 'paper."probe.conv2.top1": must be a number in percent; found True',
    'paper={ "probe" = 90 }': "paper: not a metric of a stage; found 'probe'; ...",
    'margins={ a = "probe.conv2.top1" }': "margins.\"a\": must be two metrics; found 'probe.conv2.top1'; ...",
    'margins={ a = ["probe.conv2.top1"] }': "margins.\"a\": must be two metrics; found ['probe.conv2.top1']; allowed: [...",
    'margins={ a = ["probe.a", 3] }': 'margins."a": not a metric of a stage; found 3; ...',
    "margins=true": "margins: must be a table; found True",
}

UNKNOWN_NAMES = {
    "stages.pretrain.task.name=rotnett": "stages.pretrain.task.name: no pretext task is called 'rotnett'; allowed: ...",
    "stages.pretrain.task=rotnett": "stages.pretrain.task: no pretext task is called 'rotnett'; allowed: ...; did you mean 'rotnet'...",
    "backbone=nim": "backbone: no backbone is called 'nim'; allowed: ...",
    "stages.probe.evaluator.name=linear_prob": "stages.probe.evaluator.name: no evaluator is called 'linear_prob'; allowed: ...; did you mean 'linear_probe'...",
    "data=digit": "data: no dataset is called 'digit'; allowed: ...; did you mean 'digits'...",
    "data=conv_probe": "data: no dataset is called 'conv_probe'; allowed: ...'conv_probe' is an evaluator",
    "stages.pretrain.optimizer=sgdd": "stages.pretrain.optimizer: no optimizer is called 'sgdd'; allowed: ...",
    "stages.pretrain.schedule=linear": "stages.pretrain.schedule: no schedule is called 'linear'; allowed: ...",
    'observers=["tensorbord"]': "observers[0]: no observer is called 'tensorbord'; ...",
    "device=gpu": "device: is not usable on this machine; found 'gpu'; allowed: auto, cpu...",
    "stages.probe.device=gpu": "stages.probe.device: is not usable on this machine; found 'gpu'; allowed: auto, cpu...",
    "precision=float8": "precision: unknown choice; found 'float8'; allowed: 'auto', 'bfloat16', 'float16', 'tf32', 'float32'; did you mean 'float32'?",
    "compile=maybe": "compile: unknown choice; found 'maybe'; allowed: 'auto', true or false",
    'backbone={ name = "timm", model = "resnet-18" }': "backbone.model: timm ...; did you mean 'resnet18'...",
    "backbone=my_nets:MyNet": "backbone: 'my_nets:MyNet' does not exist: my_nets has no 'MyNet'",
    "backbone=my_netz:MyNet": "backbone: 'my_netz:MyNet' cannot be imported; it is neither installed nor in the current folder",
    "backbone=my_nets:Plain": "backbone: 'my_nets:Plain' must be a class; found 3; a subclass of Backbone, not an object",
    "backbone=my_nets:NoBackbone": "backbone: 'my_nets:NoBackbone' must be a subclass of Backbone; found <class 'my_nets.NoBackbone'>",
}

IMPOSSIBLE_VALUES = {
    optimizer('name = "sgd", lr = -0.1'): "stages.pretrain.optimizer.lr: must be positive; found -0.1; allowed: a number above 0",
    optimizer('main = { name = "sgd", lr = 0 }'): "stages.pretrain.optimizer.main.lr: must be positive; found 0.0; ...",
    schedule('name = "step", milestones = [3, 2]'): "stages.pretrain.schedule.milestones: must increase and be positive; found [3.0, 2.0]",
    "stages.pretrain.epochs=0": "stages.pretrain.epochs: must be positive; found 0; allowed: 1 or more",
    "stages.pretrain.evaluate_every=0": "stages.pretrain.evaluate_every: must be an integer, 1 or more; found 0",
    "stages.pretrain.task.angles=[90]": "stages.pretrain.task.angles: must be at least two numbers of degrees, ...",
    "backbone.num_blocks=7": "backbone.num_blocks: unknown depth; found 7; allowed: 3, 4, 5",
    "stages.pretrain.augment.crop_padding=-1": "stages.pretrain.augment.crop_padding: must not be negative; found -1;"
    " allowed: 0 or more pixels",
    "log_every=0": "log_every: must be positive; found 0; allowed: 1 or more steps",
    "stages.probe.log_every=0": "stages.probe.log_every: must be positive; found 0; allowed: 1 or more steps",
    "stages.pretrain.batch_size=5000": "stages.pretrain.batch_size: is larger than the data (1442 images); found 5000; allowed: 1 to 1442",
    "stages.probe.evaluator.batch_size=5000": "stages.probe.evaluator.batch_size: is larger than the data (1442 images); ...",
    evaluator('name = "knn", layers = ["conv2"], k = 5000'): "stages.probe.evaluator.k: is larger than the data (1442 images); found 5000;"
    " allowed: 1 to 1442",
    evaluator('name = "semi_supervised", layers = ["conv2"], labels_per_class = [20, 1000]'): "stages.probe.evaluator.labels_per_class:"
    " more than the smallest class has; found 1000; allowed: at most 140",
    'stages.probe.evaluator.layers=["conv9"]': "stages.probe.evaluator.layers: layer does not exist in this backbone; found 'conv9';"
    " allowed: conv1, conv2, conv3",
    'data={ name = "image_folder", root = "nowhere" }': "data: ...nowhere is not a folder; set root in [data] to the folder of the images",
    'data={ name = "image_folder", root = "" }': "data.root: must be a folder; found ''",
}

WRONG_STAGES = {
    "stages={}": "stages: is empty; add a [stages.pretrain] table",
    "stages={ pretrain = {} }": "stages.pretrain: needs a task, to pretrain, or an evaluator; found []",
    "stages.pretrain.evaluator=knn": "stages.pretrain: has a task and an evaluator; allowed: one of them; make two stages of it",
    'stages={ "a/b" = { task = "rotnet" } }': "stages.a/b: not a name; found 'a/b'; allowed: letters, digits, _ and -, but not 'random'",
    "name=a/b": "name: not a name; found 'a/b'; allowed: letters, digits, _ and -, but not 'random'",
    "name=random": "name: not a name; found 'random'; allowed: letters, digits, _ and -, but not 'random'",
    "name=..": "name: not a name; found '..'; ...",
    "name=7": "name: not a name; found 7; ...",
    f"name={'x' * 101}": "name: not a name; found 'xxx...",
    'stages={ random = { task = "rotnet" } }': "stages.random: not a name; found 'random'; ...",
    'stages={ a = { weights = "random" } }': "stages.a: needs a task, to pretrain, or an evaluator; found ['weights']",
    'stages.last={ evaluator = "knn" }': "stages.last.evaluator.layers: missing; required; allowed: an array of strings",
    'stages.last={ evaluator = { name = "knn", layers = ["conv2"] } }': "stages.last.weights: missing; required; name an earlier stage,"
    ' "random", "backbone", "run:PATH#stage" or "file:PATH"',
    "stages.probe.weights=pretran": "stages.probe.weights: no such stage; found 'pretran'; allowed: pretrain, random, backbone, run:PATH#stage, file:PATH;"
    " did you mean 'pretrain'?",
    "stages.pretrain.weights=pretrain": "stages.pretrain.weights: stages wait for each other in a cycle; found 'pretrain -> pretrain'",
    "stages.pretrain.weights=probe": "stages.pretrain.weights: stages wait for each other in a cycle;"
    " found 'pretrain -> probe -> pretrain'",
    'stages.last={ weights = "probe", evaluator = { name = "knn", layers = ["conv2"] } }': "stages.last.weights: that stage leaves no"
    " backbone; found 'probe'; allowed: pretrain, random, backbone, run:PATH#stage, file:PATH",
    'stages={ early = { weights = "late", evaluator = { name = "knn", layers = ["conv2"] } }, late = { task = "rotnet" } }': "stages.early.weights: must be an earlier stage; found 'late'; move [stages.late] above [stages.early]",
    "stages.probe.evaluator=supervised": "stages.probe.weights: this evaluator trains from scratch; found 'pretrain'; allowed: \"random\"",
    "stages.probe.backbone.num_blocks=3": "stages.probe.backbone: the backbone comes from stage 'pretrain'; leave it out,"
    ' or set weights = "random"',
    "stages.probe.epochs=5": "stages.probe.epochs: unknown key; allowed: evaluator, weights, allow_missing, backbone, data, device, precision, compile,"
    " cuda_graphs, deterministic, channels_last, num_workers, keep_memory, log_every, checkpoint_minutes, keep_checkpoints; write stages.probe.evaluator.epochs",
}

WRONG_OVERRIDES = {
    "nonsense": "override 'nonsense': must be KEY=VALUE; allowed: for example stages.pretrain.epochs=1",
    "=3": "override '=3': must be KEY=VALUE; allowed: for example stages.pretrain.epochs=1",
    "name.x=3": "override 'name.x=3': name is not a table; found 'tiny'",
    "stages.pretrain.epochs.x=3": "override 'stages.pretrain.epochs.x=3': stages.pretrain.epochs is not a table; found 1",
}

TOO_LARGE = {
    "seed=9223372036854775808": "seed: is too large an integer; allowed: 64 bits",
    "stages.pretrain.batch_size=1000000000": "stages.pretrain.batch_size: is larger than the data (1442 images); found 1000000000;"
    " allowed: 1 to 1442",
    "backbone.width=1e300": "backbone.width: is out of range; found 1e+300; allowed: 0 < width <= 1,000,000",
    'data={ name = "digits", image_size = 257 }': "data.image_size: digits have no more detail; found 257; allowed: at most 256 pixels",
    'data={ name = "image_folder", root = "x", image_size = 8193 }': "data.image_size: is too large; found 8193;"
    " allowed: at most 8,192 pixels",
    evaluator(
        'name = "semi_supervised", layers = ["conv2"], labels_per_class = [2], selection = "random", num_subsets = 1001'
    ): "stages.probe.evaluator.num_subsets: are too many; found 1001; allowed: at most 1,000",
    f"sweep={{ seed = {list(range(501))} }}": "sweep: makes 501 variants; allowed: 500; write several recipes",
}

FOUND_BY_FUZZING = {
    "device=meta": "device: is not usable on this machine; found 'meta'; allowed: auto, cpu...",
    "device=hpu": "device: is not usable on this machine; found 'hpu'; allowed: auto, cpu...",
    "device=mkldnn": "device: is not usable on this machine; found 'mkldnn'; allowed: auto, cpu...",
    'data={ name = "image_folder", root = "~no_such_user/x" }': "data: ...",
    f'data={{ name = "image_folder", root = "{"x" * 5000}" }}': "data: ...",
    "=1": "override '=1': must be KEY=VALUE; ...",
    "log_every=1\nseed=2": "override 'log_every=1\\nseed=2': must be one value; give each key an argument of its own",
    'paper={ "probe.conv2.top1" = nan }': 'paper."probe.conv2.top1": must be a number in percent; found nan',
    'sweep={ "backbone.a/b" = [1] }': 'sweep."backbone.a/b": this key cannot name a folder; allowed: letters, digits, _, - and .',
    f"sweep={{ {', '.join(f'a{i:09} = [1]' for i in range(20))} }}": "sweep: a variant's name is too long for a folder; ...",
    "seed=[" + "[" * 5000: "override 'seed=[[[...",
    "a." * 40 + "b=1": "override 'a.a.a...",
}

CASES = {**TOO_LARGE, **FOUND_BY_FUZZING, **TYPOS, **WRONG_TYPES, **UNKNOWN_NAMES, **IMPOSSIBLE_VALUES, **WRONG_STAGES, **WRONG_OVERRIDES}


@pytest.mark.parametrize(("override", "message"), CASES.items(), ids=CASES.keys())
def test_a_wrong_key_is_refused_in_one_line(refused: Refused, override: str, message: str):
    assert_message(refused(override), message)


@pytest.mark.parametrize(
    "override",
    [
        "stages.pretrain.epochs=1000000000000",
        "backbone.width=1000000.0",
        "stages.pretrain.augment.crop_padding=1000000000000",
        "stages.pretrain.task={ name = 'rotnet', angles = [" + ", ".join(f"{i / 2}" for i in range(720)) + "] }",
        evaluator('name = "mlp_probe", layers = ["conv2"], hidden = 1000000000000'),
        evaluator('name = "conv_probe", layers = ["conv2"], width = 1000000000000'),
        evaluator('name = "semi_supervised", layers = ["conv2"], labels_per_class = [2], images_per_epoch = 1000000000000'),
    ],
    ids=lambda override: override[:60],
)
def test_a_number_may_be_as_large_as_somebody_has_time_and_memory(override: str, tmp_path: Path):
    (tmp_path / "large.toml").write_text(changed(override))
    assert check_recipe(load_recipe(tmp_path / "large.toml")) == "", "nothing is left unchecked"


def test_a_chain_of_stages_may_be_longer_than_pythons_stack(tmp_path: Path):
    """That is no wrong recipe, though it once ended in a RecursionError."""
    links = [f'[stages.s{i}]\nweights = "{f"s{i - 1}" if i else "random"}"\ntask = "rotnet"' for i in range(1500)]
    (tmp_path / "chain.toml").write_text("\n".join(['name = "chain"', 'data = "digits"', 'backbone = "nin"', *links]))
    recipe = load_recipe(tmp_path / "chain.toml")
    assert len(identity(recipe.stages[-1], recipe.stages)) == 1500
    assert backbone_image(recipe, recipe.stages[-1], recipe.data.image()) == recipe.data.image()


def test_an_empty_key_is_shown(refused: Refused, tmp_path: Path):
    (tmp_path / "empty.toml").write_text('"" = 1')
    assert refused(path="empty.toml").startswith('"": unknown key; allowed: name, ')


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[data]\nname = 'digits'", "name: missing; required"),
        ("name = 'a'", "data: missing; required"),
        ("name = 'a'\ndata = 'digits'", "stages: missing; required"),
        ("name = 'a'\ndata = 'digits'\nstages.b.task = 'rotnet'", 'backbone: missing; required; for example backbone = { name = "nin" }'),
    ],
)
def test_what_is_missing_is_named(refused: Refused, tmp_path: Path, table: str, message: str):
    (tmp_path / "short.toml").write_text(table)
    assert refused(path="short.toml") == message


def test_files_that_cannot_be_read(refused: Refused, tmp_path: Path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"name = '\xff'")
    (tmp_path / "broken.toml").write_text("name = \n")
    assert refused(path="folder.toml") == "folder.toml: cannot be read (Is a directory); name a TOML file"
    assert refused(path="latin.toml") == "latin.toml: is not UTF-8 text (byte 8); save it as UTF-8"
    assert refused(path="broken.toml").startswith("broken.toml: not valid TOML (Invalid value (at line 1, column 8")
    assert refused(path="missing.toml") == "missing.toml: no such file; `sslkit recipes` lists the bundled ones"
    message = refused(path="quickstrt")
    assert message.startswith("quickstrt: no such file, and no bundled recipe of this name; allowed: audit_transforms, quickstart, ")
    assert message.endswith("; did you mean 'quickstart'?")


HEAD = 'name = "x"\nbackbone = "nin"\n[stages.pretrain]\ntask = "rotnet"\n[data]\nname = "image_folder"\n'
AS_PEOPLE_WRITE = {
    'root = "C:\\Users\\me"': "(Invalid hex value (at line 7, column 13)); in double quotes a backslash begins an escape: write a path in single quotes,",
    "root = photos": "(Invalid value (at line 7, column 8)); write strings in quotes",
    "root = /data/photos": "(Invalid value (at line 7, column 8)); write strings in quotes",
    "root = ~/photos": "(Invalid value (at line 7, column 8)); write strings in quotes",
    "root = 2024/photos": "(Expected newline or end of document after a statement (at line 7, column 12)); write strings in quotes",
    "download = True": "(Invalid value (at line 7, column 12)); write true or false in lower case",
    "root = None": "(Invalid value (at line 7, column 8)); leave out what has no value",
    "val_fraction = .5": "(Invalid value (at line 7, column 16)); a number begins with a digit: 0.5",
    'root = "C:\\new"': "data.root: has a backslash that was read as an escape; allowed: a path in single quotes, 'C:\\Users'",
    "root = 2024": 'data.root: must be a string; found 2024; put it in quotes, "2024"; on a command line \'"2024"\'',
    "root = 2024-01-02": "data.root: must be a string; found datetime.date(2024, 1, 2); put it in quotes",
}


@pytest.mark.parametrize(("line", "message"), AS_PEOPLE_WRITE.items(), ids=AS_PEOPLE_WRITE.keys())
def test_toml_as_people_write_it_is_reported_the_cause(line: str, message: str, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(f"{HEAD}{line}\n")
    begun = f"{path}: not valid TOML " if message.startswith("(") else ""
    assert refusal(RecipeError, load_recipe, path).startswith(f"{begun}{message}")


def test_a_byte_order_mark_is_no_mistake_and_another_encoding_is_named(tmp_path: Path):
    path = tmp_path / "mine.toml"
    text = f"{HEAD}root = 'C:\\Users'\n"
    path.write_text(text, encoding="utf-8-sig")
    assert load_recipe(path).table["data"]["root"] == "C:\\Users"
    path.write_text(text, encoding="utf-16")
    with pytest.raises(RecipeError, match=r"mine\.toml: is UTF-16 text; save it as UTF-8$"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('data.root="C:\\Users"', "in double quotes a backslash begins an escape: write a path in single quotes, 'C:\\Users'"),
        ("stages.pretrain.task.angles=[0, ninety]", "put the whole override in single quotes, and strings in it in double quotes"),
        ('data.root="photos', "put the whole override in single quotes, and strings in it in double quotes"),
    ],
)
def test_an_override_that_is_no_word_and_no_toml_is_refused(override: str, message: str, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(HEAD)
    found = refusal(RecipeError, load_recipe, path, [override])
    assert found.startswith(f"override {override!r}: not valid TOML (")
    assert found.endswith(message)
    assert load_recipe(path, ["data.root=C:\\Users"]).table["data"]["root"] == "C:\\Users"
