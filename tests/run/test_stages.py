import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import pytest
import torch
from torch import Tensor, nn

import sslkit
from sslkit import (
    KNN,
    SGD,
    Arrays,
    ArtifactError,
    Augment,
    Backbone,
    BackboneError,
    CheckpointSaved,
    DataError,
    Dataset,
    Evaluation,
    Evaluator,
    FineTune,
    FitStart,
    HeldoutEnd,
    ImageSet,
    ImageSpec,
    LabeledData,
    LinearProbe,
    OptionError,
    PretextTask,
    RunContext,
    RunFailedError,
    RunInterruptedError,
    StageEnd,
    StageSkipped,
    StageStart,
    StepEnd,
    TrainingOptions,
    evaluate,
    load_backbone,
    pretrain,
)
from sslkit.contract.runtime import Runtime
from sslkit.data.cache import OpenedDataset
from sslkit.run.artifacts import ARTIFACT, BACKBONE, HEADS, METRICS, PREDICTIONS
from sslkit.run.networks import check_pretraining
from sslkit.storage.identity import state_hash
from sslkit.storage.metrics_log import read_metrics
from sslkit.storage.tensor_file import load_tensors
from sslkit_rotnet import RotNet
from tests.contract.contexts import make_context
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.colorization import Colorization
from tests.contract.miniatures.images import TinyImages, tiny_images
from tests.contract.miniatures.mae import MAE
from tests.contract.miniatures.rotation import Rotation
from tests.evaluators.labeled import arrays, changed, copy_of, network
from tests.observers import Recorder, stop_after

DATA = arrays()
RUNTIME = Runtime(device="cpu", precision="float32", log_every=1)
TRAINING = TrainingOptions(epochs=2, batch_size=8, augment=Augment(crop_padding=1, horizontal_flip=True))
PROBE = LinearProbe(layers=("stem", "body"), epochs=2, batch_size=8)


LAST_CHECKPOINT = "checkpoint-000000008.safetensors"
"""What a finished pretraining keeps of its checkpoints."""


def pretrained(task: PretextTask | None = None, backbone: Backbone | None = None, data: Dataset = DATA, **options: Any) -> Any:
    """Two epochs of four steps."""
    task, backbone = task or Rotation(), backbone or network()
    return pretrain(task, backbone, data, **{"training": TRAINING, "runtime": RUNTIME, **options})


def evaluated(evaluator: Evaluator = PROBE, backbone: Backbone | None = None, data: Dataset = DATA, **options: Any) -> Any:
    return evaluate(evaluator, backbone or network(), data, **{"runtime": RUNTIME, **options})


def artifact(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ARTIFACT).read_text())


# --------------------------------------------------------------------------------------------------------- as the README says


class MyNet(sslkit.Backbone):
    def __init__(self, image: sslkit.ImageSpec, *, width: int = 4):
        super().__init__(image)
        self.stem = nn.Sequential(nn.Conv2d(image.num_chs, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.feature_info = (sslkit.FeatureInfo("stem", width, 2), sslkit.FeatureInfo("body", 2 * width, 4))

    def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = {"stem": self.stem(x)}
        if "body" in layers:
            features["body"] = self.body(features["stem"])
        return {layer: features[layer] for layer in layers}


def test_your_own_network_and_your_own_tensors():
    images, labels = DATA.train_images, DATA.train_labels
    data = sslkit.Arrays(train_images=images, train_labels=labels, test_images=DATA.test_images, test_labels=DATA.test_labels)
    result = sslkit.pretrain(RotNet(), MyNet(data.image()), data, training=sslkit.TrainingOptions(epochs=1, batch_size=16))
    probe = sslkit.evaluate(sslkit.LinearProbe(layers=("body",), epochs=1, batch_size=16), result.backbone, data)
    assert set(result.metrics) == {"pretext_loss", "pretext_top1"}
    assert set(probe.metrics) == {"body.top1"}
    assert 0 <= probe.metrics["body.top1"] <= 100
    features = result.backbone.embed(images, "body")
    assert features.shape == (30, 8)


# ---------------------------------------------------------------------------------------------------------------- pretraining


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    backbone = network()
    before = copy_of(backbone)
    result = pretrained(backbone=backbone)
    assert list(tmp_path.iterdir()) == []
    assert result.folder is None
    assert set(result.metrics) == {"pretext_loss", "pretext_top1"}
    assert changed(backbone, before) == []  # it is copied
    assert set(changed(result.backbone, before)) == set(before)
    assert result.backbone.mean.device.type == "cpu"
    assert not any(child.training for child in result.backbone.modules())
    assert all(parameter.requires_grad for parameter in result.backbone.parameters())


def test_a_folder_gets_the_artifact(tmp_path: Path):
    result = pretrained(output=tmp_path / "pretrain", seed=5)
    assert sorted(path.name for path in (tmp_path / "pretrain").iterdir()) == [ARTIFACT, BACKBONE, LAST_CHECKPOINT, METRICS, PREDICTIONS]
    found = artifact(tmp_path / "pretrain")
    assert {key: found[key] for key in ("stage", "kind", "status", "steps", "num_images", "skipped_files")} == {
        "stage": "pretrain",
        "kind": "pretrain",
        "status": "finished",
        "steps": 8,
        "num_images": 30,
        "skipped_files": [],
    }
    assert found["metrics"] == result.metrics
    assert found["fingerprint"] == result.fingerprint
    assert found["seconds"] > 0
    assert found["identity"]["seed"] == 5
    assert found["identity"]["training"]["augment"] == {
        "class": "sslkit.contract.images:Augment",
        "crop_padding": 1,
        "horizontal_flip": True,
    }
    assert found["backbone"]["class"].endswith(":TinyConv")
    assert found["backbone"]["options"] == {"width": 4, "dropout": 0.1}
    loaded = load_backbone(tmp_path / "pretrain", backbone=network(seed=9))
    assert changed(loaded, copy_of(result.backbone)) == []


def test_metrics_are_logged_by_step(tmp_path: Path):
    pretrained(output=tmp_path, evaluate_every=1)
    lines = read_metrics(tmp_path / METRICS)
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 9))
    assert [(line["step"], line["epoch"]) for line in lines if line["split"] == "heldout"] == [(4, 1.0), (8, 2.0)]
    assert all({"loss", "top1", "lr", "images_per_second"} <= set(line) for line in lines if line["split"] == "train")
    assert {"pretext_loss": lines[-1]["loss"], "pretext_top1": lines[-1]["top1"]} == artifact(tmp_path)["metrics"]


def test_the_folder_the_observers_and_the_logging_change_no_bit(tmp_path: Path):
    alone = pretrained()
    other = pretrained(
        output=tmp_path,
        observers=[Recorder()],
        evaluate_every=1,
        runtime=Runtime(device="cpu", precision="float32", log_every=7, checkpoint_minutes=0),
    )
    assert changed(other.backbone, copy_of(alone.backbone)) == []
    assert other.metrics == alone.metrics


def test_the_seed_and_the_stages_name_decide():
    one, two, three, four = (pretrained(**options).backbone for options in ({}, {}, {"seed": 1}, {"name": "other"}))
    assert changed(one, copy_of(two)) == []
    assert changed(one, copy_of(three)) != []
    assert changed(one, copy_of(four)) != []


def test_the_global_random_state_neither_matters_nor_changes():
    one = pretrained().backbone
    torch.manual_seed(123)
    state = torch.get_rng_state()
    two = pretrained().backbone
    assert changed(one, copy_of(two)) == []
    assert torch.equal(torch.get_rng_state(), state)


def test_labels_are_not_looked_at():
    bare = Arrays(train_images=DATA.train_images, test_images=DATA.test_images)
    assert changed(pretrained(data=bare).backbone, copy_of(pretrained().backbone)) == []


def test_without_heldout_images_a_notice_says_so():
    watcher = Recorder()
    result = pretrained(data=Arrays(train_images=DATA.train_images), observers=[watcher])
    assert result.metrics == {}
    assert watcher.messages() == ["the data has no held-out images: the pretext task is measured on training batches only"]
    watcher = Recorder()
    pretrained(observers=[watcher])
    assert watcher.messages() == []


def test_observers_hear_the_stage_begin_and_end(tmp_path: Path):
    watcher = Recorder()
    result = pretrained(output=tmp_path, observers=[watcher])
    assert isinstance(watcher.events[0], StageStart)
    assert isinstance(watcher.events[-1], StageEnd)
    assert (watcher.events[0].kind, watcher.events[0].folder) == ("pretrain", tmp_path)
    assert watcher.events[-1].metrics == result.metrics
    assert len(watcher.of(StepEnd)) == 8
    assert {event.stage for event in watcher.events} == {"pretrain"}


# ----------------------------------------------------------------------------------------------------------------- evaluation


def test_a_probe_measures_and_leaves_heads_but_no_backbone(tmp_path: Path):
    backbone = network()
    before = state_hash(backbone)
    result = evaluated(backbone=backbone, output=tmp_path, name="probe")
    assert set(result.metrics) == {"stem.top1", "body.top1"}
    assert result.backbone is None
    assert state_hash(backbone) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARTIFACT, HEADS, METRICS, PREDICTIONS]
    assert set(load_tensors(tmp_path / HEADS)[0]) == {f"{layer}.linear.{part}" for layer in ("stem", "body") for part in ("weight", "bias")}
    found = artifact(tmp_path)
    assert found["frozen_backbone"] == {"sha256_before": before, "sha256_after": before}
    assert (found["kind"], found["num_images"], found["num_test_images"], found["classes"]) == ("evaluate", 30, 15, ["0", "1", "2"])
    assert "backbone" not in found
    with pytest.raises(ArtifactError, match="this stage left no backbone"):
        load_backbone(tmp_path)


def test_the_probe_is_the_evaluators_own_figure():
    """Nothing that a stage does around an evaluator changes what it measures."""
    result = evaluated(name="probe", seed=3, runtime=Runtime(device="cpu", precision="float32", channels_last=False))
    data = OpenedDataset(DATA).labeled()
    context = make_context(stage="probe")
    assert result.metrics == PROBE.evaluate(network(), data, context).metrics


def test_fine_tuning_leaves_a_backbone(tmp_path: Path):
    backbone = network()
    before = copy_of(backbone)
    result = evaluated(FineTune(epochs=1, batch_size=8), backbone, output=tmp_path)
    assert changed(backbone, before) == []
    assert set(changed(result.backbone, before)) == set(before)
    assert not result.backbone.training
    assert "frozen_backbone" not in artifact(tmp_path)
    assert changed(load_backbone(tmp_path, backbone=network(seed=9)), copy_of(result.backbone)) == []


# -------------------------------------------------------------------------------------------------- a backbone that must not move


@final
@dataclass(frozen=True, kw_only=True)
class Cheat(Evaluator):
    """Says that the backbone is frozen, and changes it."""

    how: Literal["honest", "weights", "statistics"]

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        if self.how == "weights":
            with torch.no_grad():
                next(backbone.parameters())[0] += 1e-3
        if self.how == "statistics":  # what a forgotten eval() does
            backbone.train()
            with torch.no_grad():
                backbone(data.train.read(range(4)), ["body"])
        return Evaluation({"body.top1": 99.9})


@pytest.mark.parametrize("how", ["weights", "statistics"])
def test_a_frozen_backbone_that_moved_voids_the_figures(how: Any, tmp_path: Path):
    with pytest.raises(RunFailedError, match=r"^stage 'probe': the frozen backbone changed, so its metrics are invalid; report "):
        evaluated(Cheat(how=how), output=tmp_path, name="probe")
    found = artifact(tmp_path)
    assert found["status"] == "running"
    assert "metrics" not in found
    assert "99.9" not in json.dumps(found)
    with pytest.raises(RunFailedError):  # nor is it taken for finished the next time
        evaluated(Cheat(how=how), output=tmp_path, name="probe")


def test_the_same_evaluator_without_the_cheat_passes(tmp_path: Path):
    assert evaluated(Cheat(how="honest"), output=tmp_path).metrics == {"body.top1": 99.9}
    assert artifact(tmp_path)["status"] == "finished"


def test_a_cheat_cannot_reach_the_callers_backbone():
    backbone = network()
    before = copy_of(backbone)
    with pytest.raises(RunFailedError):
        evaluated(Cheat(how="weights"), backbone)
    assert changed(backbone, before) == []


# ----------------------------------------------------------------------------------------------------- finished, changed, stopped


def test_a_finished_stage_is_skipped(tmp_path: Path):
    first = pretrained(output=tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    watcher = Recorder()
    again = pretrained(output=tmp_path, observers=[watcher])
    assert watcher.events == [StageSkipped(stage="pretrain", metrics=first.metrics)]
    assert (again.metrics, again.fingerprint, again.folder) == (first.metrics, first.fingerprint, tmp_path)
    assert changed(again.backbone, copy_of(first.backbone)) == []
    assert not again.backbone.training
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_a_finished_probe_is_skipped_too(tmp_path: Path):
    first = evaluated(output=tmp_path)
    watcher = Recorder()
    again = evaluated(output=tmp_path, observers=[watcher])
    assert again == first
    assert [type(event) for event in watcher.events] == [StageSkipped]


def test_logging_and_checkpoints_may_change_without_a_new_run(tmp_path: Path):
    pretrained(output=tmp_path)
    watcher = Recorder()
    runtime = Runtime(device="cpu", precision="float32", log_every=3, checkpoint_minutes=0, compile=False, channels_last=False)
    pretrained(output=tmp_path, runtime=runtime, evaluate_every=1, observers=[watcher])
    assert [type(event) for event in watcher.events] == [StageSkipped]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"training": TrainingOptions(epochs=3, batch_size=8, augment=Augment(crop_padding=1))}, ["augment.horizontal_flip", "epochs"]),
        ({"training": TrainingOptions(epochs=2, batch_size=8, augment=TRAINING.augment, optimizer=SGD(lr=0.2))}, ["optimizer.lr"]),
        ({"seed": 1}, ["seed: 0 -> 1"]),
        ({"data": Arrays(train_images=DATA.train_images)}, ["data.heldout"]),
        ({"backbone": network(width=6)}, ["backbone.options.width: 4 -> 6", "backbone.weights"]),
        ({"task": RotNet()}, ["code of sslkit_rotnet, tests", "task.angles", "task.class", "task.interpolation", "task.transforms"]),
        ({"runtime": Runtime(device="cpu")}, ["precision: 'float32' -> 'auto'"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_changed_option_is_refused_and_named(options: dict, keys: list[str], tmp_path: Path):
    pretrained(output=tmp_path)
    before = (tmp_path / ARTIFACT).read_text()
    with pytest.raises(ArtifactError) as caught:
        pretrained(output=tmp_path, **options)
    message = str(caught.value)
    start = f"{tmp_path}: holds stage 'pretrain' of a different recipe ("
    end = "); remove that folder to run this stage again, start over with --fresh, or choose another folder with --output"
    assert message.startswith(start)
    assert message.endswith(end)
    named = message.removeprefix(start).removesuffix(end).split("; ")
    assert len(named) == len(keys), named  # all that differs, and nothing that is the same
    assert all(key in entry for key, entry in zip(keys, named, strict=True))
    assert (tmp_path / ARTIFACT).read_text() == before


def test_random_weights_that_were_drawn_anew_are_named_with_what_to_do(tmp_path: Path):
    pretrained(backbone=network(seed=1), output=tmp_path)
    with pytest.raises(
        ArtifactError, match=r"recipe \(backbone\.weights: '\w+' -> '\w+'\); random weights are drawn anew in each program: call torc"
    ):
        pretrained(backbone=network(seed=2), output=tmp_path)
    watcher = Recorder()
    pretrained(backbone=network(seed=1), output=tmp_path, observers=[watcher])
    assert watcher.of(StageSkipped)


def test_another_evaluator_is_refused(tmp_path: Path):
    evaluated(output=tmp_path)
    with pytest.raises(
        ArtifactError, match=r"\(evaluator\.epochs: 2 -> 3\); remove that folder to run this stage again, start over with --fresh"
    ):
        evaluated(LinearProbe(layers=("stem", "body"), epochs=3, batch_size=8), output=tmp_path)
    with pytest.raises(ArtifactError, match=r"evaluator\.class: 'sslkit\.evaluators\.probes:LinearProbe' -> 'sslkit\.evaluators\.knn:KNN'"):
        evaluated(KNN(layers=("stem",)), output=tmp_path)


@pytest.mark.parametrize("stops", [[1], [3, 2], [4], [8]], ids=["first step", "twice", "end of an epoch", "last step"])
def test_a_stopped_pretraining_goes_on_with_the_same_bits(stops: list[int], tmp_path: Path):
    whole = pretrained(output=tmp_path / "whole")
    for steps in stops:
        watcher = Recorder()
        with pytest.raises(RunInterruptedError, match=r"^stopped in stage 'pretrain' after \d steps$"):
            pretrained(output=tmp_path / "parts", **stop_after(steps, [watcher]))
        assert len(watcher.of(CheckpointSaved)) == 1
        assert artifact(tmp_path / "parts")["status"] == "running"
        assert not (tmp_path / "parts" / BACKBONE).exists()
    watcher = Recorder()
    resumed = pretrained(output=tmp_path / "parts", observers=[watcher])
    assert len(watcher.of(StepEnd)) == 8 - sum(stops)
    assert resumed.metrics == whole.metrics
    assert resumed.fingerprint == whole.fingerprint
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint*")] == [LAST_CHECKPOINT]
    for name in (BACKBONE, LAST_CHECKPOINT):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stopped_evaluation_goes_on_with_the_same_bits(tmp_path: Path):
    evaluator = FineTune(epochs=2, batch_size=8, augment=Augment(horizontal_flip=True))
    whole = evaluated(evaluator, output=tmp_path / "whole")
    with pytest.raises(RunInterruptedError):
        evaluated(evaluator, output=tmp_path / "parts", **stop_after(5))
    assert evaluated(evaluator, output=tmp_path / "parts").metrics == whole.metrics
    for name in (BACKBONE, HEADS):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stopped_stage_of_other_options_is_refused(tmp_path: Path):
    with pytest.raises(RunInterruptedError):
        pretrained(output=tmp_path, **stop_after(3))
    with pytest.raises(ArtifactError, match=r"\(seed: 0 -> 1\)"):
        pretrained(output=tmp_path, seed=1)


def test_stopping_without_a_folder_keeps_nothing():
    with pytest.raises(RunInterruptedError, match=r"^stopped in stage 'pretrain' after 2 steps$"):
        pretrained(**stop_after(2))


def test_a_crash_while_the_artifact_is_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The weights are there already, the artifact is not: the stage is not finished, and goes on from its last checkpoint."""
    expected = pretrained().backbone
    rename = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if Path(target).name == ARTIFACT and '"finished"' in self.read_text():
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            pretrained(output=tmp_path)
    assert artifact(tmp_path)["status"] == "running"
    watcher = Recorder()
    assert changed(pretrained(output=tmp_path, observers=[watcher]).backbone, copy_of(expected)) == []
    assert watcher.of(StepEnd) == []
    assert len(watcher.of(HeldoutEnd)) == 1


def test_half_written_files_of_a_kill_are_swept_away(tmp_path: Path):
    (tmp_path / "checkpoint-000000003.safetensors.tmp-0123456789abcdef").write_bytes(b"half")
    pretrained(output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [ARTIFACT, BACKBONE, LAST_CHECKPOINT, METRICS, PREDICTIONS]


def test_a_finished_stage_without_its_weights_is_an_error(tmp_path: Path):
    pretrained(output=tmp_path)
    (tmp_path / BACKBONE).unlink()
    with pytest.raises(
        ArtifactError, match=r"backbone\.safetensors: no such file, although the stage is finished; remove .* to run the stage again$"
    ):
        pretrained(output=tmp_path)


def test_of_damaged_checkpoints_the_one_before_is_used(tmp_path: Path):
    """Damage of any kind: cut off, a bit turned over in the weights, in the header, in the values beside them."""
    runtime = dataclasses.replace(RUNTIME, checkpoint_minutes=0, keep_checkpoints=3)
    whole = pretrained(output=tmp_path / "whole")
    for damage in DAMAGES:
        folder = tmp_path / damage.__name__
        with pytest.raises(RunInterruptedError):
            pretrained(output=folder, **stop_after(5), runtime=runtime)
        files = sorted(folder.glob("checkpoint-*"))
        assert [int(path.stem.rpartition("-")[2]) for path in files] == [3, 4, 5]
        for path in files[1:]:
            damage(path)
        watcher = Recorder()
        again = pretrained(output=folder, observers=[watcher], runtime=runtime)
        first, second = watcher.messages()
        assert re.fullmatch(rf"{files[2]}: damaged \(.+\); it is set aside", first)
        assert re.fullmatch(rf"{files[1]}: damaged \(.+\); it is set aside", second)
        assert watcher.of(FitStart)[0].step == 3
        assert again.metrics == whole.metrics
        assert (folder / BACKBONE).read_bytes() == (tmp_path / "whole" / BACKBONE).read_bytes()
        assert [path.name for path in folder.glob("checkpoint*")] == [LAST_CHECKPOINT]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_a_value(path: Path) -> None:
    """``"epoch"`` is one of the values beside the tensors; the file stays well-formed."""
    content = path.read_bytes()
    place = content.index(b"epoch") + len(rb"epoch\": ")
    assert content[place : place + 1].isdigit()
    path.write_bytes(content[:place] + b"7" + content[place + 1 :])


DAMAGES = (cut, empty, flip_last_byte, change_a_value)


def test_without_a_good_checkpoint_training_begins_from_the_start(tmp_path: Path):
    whole = pretrained(output=tmp_path / "whole")
    with pytest.raises(RunInterruptedError):
        pretrained(output=tmp_path / "parts", **stop_after(5))
    for path in (tmp_path / "parts").glob("checkpoint-*"):
        cut(path)
    watcher = Recorder()
    again = pretrained(output=tmp_path / "parts", observers=[watcher])
    assert watcher.messages()[-1] == "no checkpoint can be read: the training begins from the start"
    assert watcher.of(FitStart)[0].step == 0
    assert again.metrics == whole.metrics


# ----------------------------------------------------------------------------------------------------------------- refusals


class Splits(Dataset):
    """A dataset of given splits."""

    def __init__(self, **splits: ImageSet | None) -> None:
        self.splits = splits

    def image(self) -> ImageSpec:
        return tiny_images(1, size=8).image

    def load(self, split: sslkit.Split) -> ImageSet | None:
        return self.splits.get(split)


def images_of(num_classes: int) -> TinyImages:
    images = tiny_images(30, size=8)
    images.labels = torch.arange(30) % num_classes
    images.classes = tuple("abcdef"[:num_classes])
    return images


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Splits(test=images_of(3)), r"the training images have no labels; an evaluation needs class folders or labels"),
        (Splits(train=tiny_images(30, size=8), test=images_of(3)), r"the training images have no labels"),
        (Splits(train=images_of(3)), r"there are no labelled test images; give a test split, or set val_fraction"),
        (Splits(train=images_of(3), test=tiny_images(30, size=8)), r"there are no labelled test images"),
        (
            Splits(train=images_of(2), test=images_of(3)),
            r"test images belong to classes without training images: c; allowed: a, b; give both splits the same classes",
        ),
        (Arrays(train_images=DATA.train_images, test_images=DATA.test_images), r"the training images have no labels"),
    ],
)
def test_an_evaluation_needs_labels(data: Dataset, message: str, tmp_path: Path):
    with pytest.raises(DataError, match=f"^{message}"):
        evaluated(data=data, output=tmp_path / "probe")
    assert list(tmp_path.iterdir()) == []


def test_pretraining_needs_images():
    with pytest.raises(DataError, match=r"^the dataset has no images to pretrain on$"):
        pretrained(data=Splits(train=images_of(3), test=images_of(3)))


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path):
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data \(30 images\); found 64; allowed: 1 to 30$"):
        pretrained(training=TrainingOptions(batch_size=64), output=tmp_path / "pretrain")
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data"):
        evaluated(LinearProbe(layers=("stem",), batch_size=64), output=tmp_path / "probe")
    with pytest.raises(OptionError, match=r"^layers: layer does not exist in this backbone; found 'conv2'; allowed: stem, body$"):
        evaluated(LinearProbe(layers=("conv2",), batch_size=8), output=tmp_path / "probe")
    assert list(tmp_path.iterdir()) == []


@final
@dataclass(frozen=True, kw_only=True)
class Attention(Evaluator):
    """Needs what no convolutional network has."""

    requires: ClassVar[frozenset[str]] = frozenset({"tokens", "attention"})

    @property
    def frozen(self) -> bool:
        return True

    def check(self, backbone: Backbone, data: LabeledData) -> None:
        pass

    def evaluate(self, backbone: Backbone, data: LabeledData, context: RunContext) -> Evaluation:
        raise AssertionError


def test_a_missing_capability_is_refused(tmp_path: Path):
    with pytest.raises(
        BackboneError, match=r"^MAE needs a backbone with masked_encode; found \['map'\]; choose another backbone than TinyConv$"
    ):
        pretrained(MAE(), output=tmp_path / "mae")
    with pytest.raises(BackboneError, match=r"^Attention needs a backbone with attention, tokens; found \['map'\]"):
        evaluated(Attention(), output=tmp_path / "attention")
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_for_another_colour_is_refused():
    with pytest.raises(
        BackboneError,
        match=r"^Colorization needs a backbone built for lightness images; found 'rgb'; build it with task\.image_spec\(data\.image\(\)\)$",
    ):
        pretrained(Colorization())
    check_pretraining(Colorization(), TinyConv(Colorization().image_spec(DATA.image())), DATA)


def test_a_backbone_for_another_colour_can_be_evaluated():
    """It converts what it is given: a backbone of a colorization task is measured on images in colour."""
    backbone = TinyConv(Colorization().image_spec(DATA.image()))
    assert set(evaluated(backbone=backbone).metrics) == {"stem.top1", "body.top1"}
    assert set(pretrained(Colorization(), backbone).metrics) == {"pretext_loss"}


def test_files_that_cannot_be_decoded_are_reported_and_listed(tmp_path: Path):
    images = tiny_images(30, size=8)
    images.skipped = ("train/1.png", "train/2.png")
    watcher = Recorder()
    pretrained(data=Splits(pretrain=images), output=tmp_path, observers=[watcher])
    assert watcher.messages()[0] == "skipped 2 files that cannot be decoded, listed in artifact.json; the first is train/1.png"
    assert artifact(tmp_path)["skipped_files"] == ["train/1.png", "train/2.png"]


def test_a_diverged_run_fails_and_is_not_finished(tmp_path: Path):
    training = TrainingOptions(epochs=2, batch_size=8, optimizer=SGD(lr=1e30))
    with pytest.raises(
        RunFailedError, match=r"^training diverged at step \d: loss .*; start over \(--fresh\) with a lower learning rate, "
    ):
        pretrained(training=training, output=tmp_path)
    assert artifact(tmp_path)["status"] == "running"
    assert not (tmp_path / BACKBONE).exists()
