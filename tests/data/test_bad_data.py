"""Folders of images as users have them, through the command line: what is said, and that a run gets through."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sslkit import DataFound, Event, Notice, Observer, load_recipe, run_recipe
from sslkit.run.artifacts import load_predictions
from tests.data.folders import in_classes
from tests.data.test_library_warnings import CUT_EXIF

DATA = """name = "tiny"
device = "cpu"

[data]
name = "image_folder"
root = "{root}"
image_size = 8
{data}

[backbone]
name = "nin"
num_blocks = 3
width = 0.05
"""
PROBE = """
[stages.probe]
weights = "{weights}"
evaluator = {{ name = "linear_probe", layers = ["conv1"], epochs = 1, batch_size = 4 }}
"""
SEMI_SUPERVISED = """
[stages.few]
weights = "random"
evaluator = {{ name = "semi_supervised", layers = ["conv1"], labels_per_class = [{}], epochs = 1, batch_size = 2 }}
"""


def recipe(data: str = "", stages: str = "") -> str:
    return DATA.format(root="images", data=data) + PROBE.format(weights="random") + stages


@pytest.fixture
def images(tmp_path) -> Path:
    """The folder of the recipe's images, which a test fills."""
    return tmp_path / "images"


@pytest.fixture
def sslkit_command(sslkit_command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs one command on a recipe."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(command: str, *arguments: str, data: str = "", stages: str = "") -> Any:
        (tmp_path / "tiny.toml").write_text(recipe(data, stages))
        return sslkit_command(command, "tiny.toml", *arguments)

    return run


def make(folder: Path, *paths: str) -> None:
    """Each image is another one."""
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([number, len(path)]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / path)


# ------------------------------------------------------------------------------------------------------------------ labels


CLASSES = in_classes("train", "cat", "dog")
BOTH = [*CLASSES, *in_classes("test", "cat", "dog")]
WRONG: dict[str, tuple[list[str], dict[str, str], str]] = {
    "none": (
        ["1.png", "2.png"],
        {"data": "val_fraction = 0.5"},
        "stages.probe: the training images have no labels; an evaluation needs class folders or labels",
    ),
    "one class": (
        in_classes("train", "cat"),
        {},
        "data: {images}/train has one class folder only: cat; an evaluation needs two classes or more, each in a folder of its own",
    ),
    "no test split": (
        CLASSES,
        {},
        "stages.probe: there are no labelled test images; give a test split, or set val_fraction where the data has that option",
    ),
    "other classes": (
        [*CLASSES, *in_classes("test", "cat", "eel")],
        {},
        "stages.probe: test images belong to classes without training images: eel; allowed: cat, dog; give both splits the same classes",
    ),
    "too few": (
        BOTH,
        {"stages": SEMI_SUPERVISED.format("1, 3")},
        "stages.few.evaluator.labels_per_class: more than the smallest class has; found 3; allowed: at most 2",
    ),
    "no pixels": (BOTH, {"data": "max_pixels = 0"}, "data.max_pixels: must be positive; found 0; allowed: 1 pixel or more"),
}


@pytest.mark.parametrize(("paths", "options", "message"), WRONG.values(), ids=WRONG)
def test_check_says_what_is_wrong_with_images_and_labels(images, sslkit_command, paths, options, message):
    make(images, *paths)
    done = sslkit_command("check", **options)
    assert done.err == f"error: {message.format(images=images)}\n"
    assert (done.code, done.out) == (2, "")


PRETRAIN = """
[stages.pretrain]
task = { name = "rotnet" }
epochs = 1
batch_size = 4
"""


class Notes(Observer):
    """Writes down what a run says of its data."""

    def __init__(self) -> None:
        self.splits: dict[str, str] = {}
        self.notes: list[str] = []

    def observe(self, event: Event) -> None:
        match event:
            case DataFound():
                self.splits = dict(event.splits)
            case Notice():
                self.notes.append(event.message)


def run(images: Path, *, probe: bool = False, report: bool = False) -> tuple[Notes, dict[str, dict]]:
    """A recipe in this process: its notes, and the artifacts of its stages."""
    folder = images.parent
    (folder / "tiny.toml").write_text(DATA.format(root=images, data="") + PRETRAIN + (PROBE.format(weights="pretrain") if probe else ""))
    recorder = Notes()
    run_recipe(load_recipe(folder / "tiny.toml"), output=folder / "run", observers=[recorder], report=report)
    return recorder, {path.parent.name: json.loads(path.read_text()) for path in (folder / "run").glob("*/artifact.json")}


@pytest.mark.parametrize(
    "paths",
    [
        ["val/1.png"],
        ["test/cat/1.png"],
        ["test/cat/1.png", "test/eel/2.png"],
        ["test/cat/1.png", "test/2.png"],
        ["test/.hidden.png"],
        ["train/stray.png"],
    ],
    ids=["flat val", "incomplete test", "other test classes", "stray test image", "empty test", "stray training image"],
)
def test_pretraining_alone_needs_no_labels(images, paths):
    make(images, *in_classes("train", "cat", "dog", num=4), *paths)
    _, artifacts = run(images)
    assert artifacts["pretrain"]["status"] == "finished"
    assert artifacts["pretrain"]["num_images"] == 8 + paths.count("train/stray.png")


def test_test_images_among_the_pretraining_images_are_reported_of_and_counted(images):
    make(images, *in_classes("train", "cat", "dog", num=4), *(f"unlabeled/{number}.png" for number in range(6)))
    for name in ("cat", "dog"):
        for number in range(2):
            (images / "test" / name).mkdir(parents=True, exist_ok=True)
            source = images / (f"unlabeled/{number}.png" if name == "cat" else f"train/dog/{number}.png")
            (images / "test" / name / f"{number}.png").write_bytes(source.read_bytes())
    recorder, artifacts = run(images, probe=True)
    pretraining, training = (note for note in recorder.notes if "test images are also" in note)
    assert pretraining.startswith(f"2 of 4 test images are also pretraining images (same pixels, for example {images}/test/cat/0.png")
    assert training.startswith("2 of 4 test images are also training images")
    assert artifacts["pretrain"]["test_images_in_pretrain"] == 2
    assert artifacts["probe"]["test_images_in_train"] == 2


def test_a_test_split_that_lacks_classes_is_measured_by_name_with_a_note(images):
    """The test split has the last of three classes and one by another form of its name; the report and the artifact count them."""
    make(images, *in_classes("train", "bee", "cat", "dog", num=4), *in_classes("test", "DOG", "cat"), "extra/1.png")
    recorder, artifacts = run(images, probe=True, report=True)
    assert recorder.splits == {
        "pretrain": f"12 images, in {images}/train",
        "train": f"12 images of 3 classes, 4 each, in {images}/train",
        "test": f"4 images of 2 classes, 2 each, in {images}/test",
    }
    assert recorder.notes == [
        f"folders of images that are in no split: {images}/extra",
        "1 of 3 classes have no test images, so that nothing measures them: bee",
    ]
    probe = artifacts["probe"]
    assert (probe["classes"], probe["images_per_class"]) == (["bee", "cat", "dog"], {"train": [4, 4, 4], "test": [0, 2, 2]})
    predicted = load_predictions(images.parent / "run" / "probe")["conv1"]
    assert predicted.targets.tolist() == [2, 2, 1, 1]
    tables = (images.parent / "run" / "report.md").read_text()
    for row in ("| bee | 4 | 0 |", "| cat | 4 | 2 |", "| dog | 4 | 2 |"):
        assert row in tables
    assert "Confusion matrices" in (images.parent / "run" / "report.html").read_text(encoding="utf-8")


def test_check_says_what_it_found(images, sslkit_command):
    make(images, *in_classes("Train", "cat", "dog", num=4), *in_classes("VALID", "cat", "dog"), "more/1.png")
    (images / "Train" / "cat" / "x.heic").write_bytes(b"")
    done = sslkit_command("check")
    assert done.out == (
        f"train  8 images of 2 classes, 4 each, in {images}/Train\n"
        f"test   4 images of 2 classes, 2 each, in {images}/VALID\n"
        "tiny.toml: fine, 1 stage: probe\n"
    )
    assert f"note: folders of images that are in no split: {images}/more\n" in done.err
    assert f"note: {images}/Train has images of types that are not read (1 .heic); the first is" in done.err
    assert done.code == 0


# ------------------------------------------------------------------------------------------------------------------- files


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want file names in UTF-8")
def test_a_run_gets_through_with_class_folders_of_any_name(images, sslkit_command, tmp_path):
    strange = sorted(["a b", "a\nb", "\x1b[31mred\x1b[0m", os.fsdecode(b"caf\xe9"), "<b>&amp;|`", "[bold]"])
    make(images, *in_classes("train", *strange), *in_classes("test", *strange))
    bad = f"train/{strange[0]}/{os.fsdecode(bytes([233, 10, 27]))}[2J.png"
    (images / bad).write_bytes(b"")
    done = sslkit_command("run", data='on_error = "skip"')
    assert (done.code, "could not be written" in done.err, "Traceback" in done.err) == (0, False, False), done.err
    assert "note: skipped 1 file that cannot be decoded, listed in artifact.json; the first is \\x1b[31mred" in done.err
    assert "\x1b" not in done.out + done.err
    artifact = json.loads((tmp_path / "runs" / "tiny" / "probe" / "artifact.json").read_text())
    assert artifact["classes"] == strange
    assert artifact["skipped_files"] == [bad.removeprefix("train/")]
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "Confusion matrices" in page  # with the names drawn


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be decoded (the file is empty)"),
        (b"hello", "cannot be decoded (no JPEG, PNG, WebP, GIF, TIFF or BMP image)"),
        (None, "is a named pipe, not a file"),
    ],
    ids=["empty", "text", "pipe"],
)
def test_a_bad_file_stops_a_run_in_one_line(images, sslkit_command, content, problem):
    make(images, *BOTH)
    path = images / "train" / "cat" / "bad.jpg"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    done = sslkit_command("run")
    assert done.code == 2
    assert re.search(rf"^error: {re.escape(f'{path} {problem}')}; .*on_error = \"skip\" in \[data\]$", done.err, flags=re.MULTILINE)
    assert "Traceback" not in done.err


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.filterwarnings("default")  # as in a process of its own
def test_what_a_library_says_of_a_file_is_a_note_that_names_it(quiet, images, sslkit_command):
    make(images, *BOTH)
    path = images / "train" / "cat" / "cut.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=CUT_EXIF)
    done = sslkit_command("run", *(["--quiet"] if quiet else []))
    assert done.code == 0
    warnings = [line for line in done.err.splitlines() if "EXIF" in line]
    assert [line.split(": Corrupt EXIF data")[0].split("note: ")[-1] for line in warnings] == ([] if quiet else [str(path)])
    assert not quiet or done.err == ""


# -------------------------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parametrize("num", [1, 0])
def test_test_images_that_are_training_images_are_reported_of_once_and_counted(images, sslkit_command, tmp_path, num):
    make(images, *in_classes("train", "cat", "dog", num=4), *(path.replace(".png", "_.png") for path in in_classes("test", "cat", "dog")))
    if num:
        (images / "test" / "dog" / "0_.png").write_bytes((images / "train" / "cat" / "3.png").read_bytes())
    done = sslkit_command("run", stages=SEMI_SUPERVISED.format("1"))
    assert done.code == 0, done.err
    example = f"{images}/test/dog/0_.png = {images}/train/cat/3.png"
    assert done.err.count("also") == num
    assert done.err.count(f"  note: 1 of 4 test images are also training images (same pixels, for example {example})\n") == num
    for stage in ("probe", "few"):
        assert json.loads((tmp_path / "runs" / "tiny" / stage / "artifact.json").read_text())["test_images_in_train"] == num


# ------------------------------------------------------------------------------------------------------------------ Ctrl-C

SLOWLY = """
import os, signal, sys, time
told = open(os.dup(1), "w")  # the command keeps its own standard output for results
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
import sslkit.data.{module} as module
work = module.{name}
def slow(*arguments, **options):
    print("begun", file=told, flush=True)
    time.sleep(0.05)
    return work(*arguments, **options)
module.{name} = slow
from sslkit.cli.commands import main
sys.argv = ["sslkit", "{command}", "tiny.toml"]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize(("module", "name"), [("folder_scan", "_is_folder"), ("file_set", "decode")])
def test_ctrl_c_ends_a_scan_at_once(images, tmp_path, command, module, name):
    """2,400 files at 0.05 s would take two minutes, which the time limit does not allow."""
    make(images, *in_classes("train", "cat", "dog", num=1200))
    (tmp_path / "tiny.toml").write_text(recipe('val_fraction = 0.5\non_error = "skip"'))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY.format(module=module, name=name, command=command)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.startswith("interrupted")
    assert "Traceback" not in errors


def test_images_are_not_compared_with_themselves(images, sslkit_command, tmp_path):
    """An evaluation without labels, of a folder without a test split, has one set of images."""
    make(images, *(f"{number}.png" for number in range(40)))
    done = sslkit_command("run", 'stages.probe.evaluator={ name = "feature_quality", layers = ["conv1"] }')
    assert done.code == 0, done.err
    assert "also training images" not in done.err
    assert json.loads((tmp_path / "runs" / "tiny" / "probe" / "artifact.json").read_text())["test_images_in_train"] is None
