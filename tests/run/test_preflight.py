from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sslkit_rotnet
from sslkit import (
    NIN,
    Backbone,
    Catalog,
    DataError,
    DataInfo,
    Dataset,
    Digits,
    FineTune,
    ImageFolder,
    ImageSet,
    ImageSpec,
    LinearProbe,
    MLPProbe,
    Objective,
    OptimizerFactory,
    PluginError,
    PretextTask,
    RecipeError,
    Schedule,
    SemiSupervised,
    Split,
)
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe, parse_recipe
from sslkit.run.networks import backbone_image
from sslkit.run.preflight import check, check_recipe
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.contract.miniatures.colorization import Colorization
from tests.contract.miniatures.images import tiny_images
from tests.contract.miniatures.mae import MAE
from tests.contract.miniatures.rotation import Rotation, RotationPrediction


class Unread(ImageSet):
    """Thirty images that must not be read."""

    fingerprint = "unread"

    def __init__(self, *, labels: bool) -> None:
        self.image = tiny_images(1).image
        self.labels = torch.arange(30) % 3 if labels else None
        self.classes = ("a", "b", "c") if labels else ()

    def __len__(self) -> int:
        return 30

    def read(self, indices: Sequence[int]) -> Tensor:
        raise AssertionError("a pixel was read")


@dataclass(frozen=True, kw_only=True)
class Somewhere(Dataset):
    """Images of 16 x 16 pixels in three colours.

    Attributes:
        here: whether they need no download.
        without: a split that does not exist.
        labels: whether there are any.
    """

    here: bool = True
    without: str = ""
    labels: bool = True

    def image(self) -> ImageSpec:
        statistics = torch.full((3,), 0.5)  # a dataset may compute; under the meta device there would be no values
        return ImageSpec(16, 16, "rgb", tuple(statistics.tolist()), (0.25,) * 3)

    def load(self, split: Split) -> ImageSet | None:
        assert self.here, "something was downloaded"
        return None if split == self.without else Unread(labels=self.labels and split != "pretrain")

    def available(self) -> bool:
        return self.here


class Fetching(TinyConv):
    """Remembers what it was built with."""

    built: ClassVar[list[tuple[bool, str]]] = []

    def __init__(self, image: ImageSpec, *, pretrained: bool = False) -> None:
        super().__init__(image)
        self.built.append((pretrained, self.stem[0].weight.device.type))


class Reading(TinyConv):
    """Reads values while it is built, as rates of stochastic depth are: on the meta device there are none."""

    built: ClassVar[list[str]] = []

    def __init__(self, image: ImageSpec) -> None:
        super().__init__(image)
        self.built.append(self.stem[0].weight.device.type)
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 2)], torch.zeros(2).numpy()


@dataclass(frozen=True, kw_only=True)
class Sinking(Schedule):
    """Falls below zero at the end."""

    def scale(self, epoch: float, num_epochs: float) -> float:
        return 0.5 - epoch / num_epochs


@dataclass(frozen=True, kw_only=True)
class Weighing(OptimizerFactory):
    """Looks at values when it is built; on the meta device there are none."""

    def build(self, groups: list[dict]) -> torch.optim.Optimizer:
        largest = max(parameter.detach().abs().max().item() for group in groups for parameter in group["params"])
        return torch.optim.SGD(groups, lr=0.1 / (1 + largest))


CATALOG = Catalog.of(
    optimizers={"weighing": Weighing},
    pretext_tasks={"rotation": Rotation, "mae": MAE, "colorization": Colorization, "rotnet": sslkit_rotnet.RotNet},
    backbones={"tiny": TinyConv, "tokens": TinyTokens, "nin": NIN, "fetching": Fetching, "reading": Reading},
    datasets={"somewhere": Somewhere, "digits": Digits, "image_folder": ImageFolder},
    schedules={"sinking": Sinking},
    evaluators={"linear_probe": LinearProbe, "mlp_probe": MLPProbe, "finetune": FineTune, "semi_supervised": SemiSupervised},
)
PROBE = {"name": "linear_probe", "layers": ["stem", "body"], "batch_size": 8}


def recipe(stages: dict[str, Any], *, data: Any = "somewhere", backbone: Any = "tiny", **options: Any) -> Recipe:
    return parse_recipe({"name": "mine", "data": data, "backbone": backbone, "stages": stages, **options}, CATALOG)


def pretrain(task: Any = "rotation", **options: Any) -> dict[str, Any]:
    return {"task": task, "batch_size": 8, **options}


def probe(weights: str = "pretrain", **options: Any) -> dict[str, Any]:
    return {"weights": weights, "evaluator": {**PROBE, **options}}


def refused(stages: dict[str, Any], **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe(stages, **options))
    return str(caught.value)


def test_a_schedule_that_gives_no_rate_is_refused_by_its_path():
    schedule = {"name": "sinking"}
    message = r"Sinking of test_preflight\.py: scale must return a finite number, 0 or more, after epoch 53\.12 of 100; found -0\.03125$"
    for stages, path in (
        ({"pretrain": pretrain(schedule=schedule)}, "stages.pretrain.schedule"),
        ({"pretrain": pretrain(), "probe": probe(schedule=schedule)}, "stages.probe.evaluator.schedule"),
    ):
        for here in (True, False):  # a schedule needs no data
            with pytest.raises(PluginError, match=rf"^{path}: {message}"):
                check_recipe(recipe(stages, data={"name": "somewhere", "here": here}))


def test_an_optimizer_that_reads_the_weights_is_not_refused_for_the_sake_of_the_meta_device():
    check_recipe(recipe({"pretrain": pretrain(optimizer="weighing")}))


class WholeBatches(RotationPrediction):
    full_batches = True


@dataclass(frozen=True, kw_only=True)
class Whole(PretextTask):
    """Its objective needs full batches."""

    def build_objective(self, backbone: Backbone, data: DataInfo) -> Objective:
        return WholeBatches(backbone, classes=4)


def test_a_task_that_needs_full_batches_is_refused_others_by_their_path():
    catalog = Catalog.of(pretext_tasks={"whole": Whole}, backbones={"tiny": TinyConv}, datasets={"somewhere": Somewhere})

    def check_with(**options: Any) -> None:
        stages = {"pretrain": pretrain("whole", **options)}
        check_recipe(parse_recipe({"name": "mine", "data": "somewhere", "backbone": "tiny", "stages": stages}, catalog))

    check_with()
    for options, message in (
        ({"drop_last": False}, r"stages\.pretrain\.drop_last: WholeBatches needs full batches; found False; leave it out"),
        ({"batch_size": 31}, r"stages\.pretrain\.batch_size: is larger than the data \(30 images\); found 31; allowed: 1 to 30"),
    ):
        with pytest.raises(RecipeError, match=rf"^{message}$"):
            check_with(**options)


def test_a_recipe_that_fits_passes_without_reading_a_pixel():
    stages = {
        "pretrain": pretrain(),
        "probe": probe(),
        "finetune": {"weights": "pretrain", "evaluator": {"name": "finetune", "batch_size": 30}},
        "tuned": probe("finetune"),
        "tokens": pretrain("mae", backbone="tokens"),
    }
    assert check_recipe(recipe(stages)) == ""
    check(recipe(stages), OpenedDataset(Somewhere()))


def test_nothing_is_downloaded_and_what_is_left_out_is_said():
    away = {"name": "somewhere", "here": False}
    unchecked = check_recipe(recipe({"pretrain": pretrain(batch_size=64), "probe": probe(layers=["conv9"])}, data=away))
    assert unchecked == "objectives, layers, batch sizes and labels, because the data is not on this machine yet"
    assert refused({"pretrain": pretrain("mae")}, data=away).startswith("stages.pretrain.task: MAE needs a backbone with masked_encode")


def test_a_backbone_need_not_know_the_meta_device():
    before = torch.get_rng_state()
    Reading.built.clear()
    assert check_recipe(recipe({"pretrain": pretrain(), "probe": probe(), "again": probe()}, backbone={"name": "reading"})) == ""
    assert Reading.built == ["meta", "cpu"], "neither is tried twice"
    assert torch.equal(torch.get_rng_state(), before)


def test_backbones_are_built_without_weights():
    Fetching.built.clear()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    check_recipe(recipe({"pretrain": pretrain(), "probe": probe()}, backbone={"name": "fetching", "pretrained": True}))
    assert Fetching.built == [(False, "meta")], "once for all stages"
    assert torch.equal(torch.get_rng_state(), state)


# -------------------------------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            {"pretrain": pretrain(), "probe": probe(layers=["stem", "conv2"])},
            "stages.probe.evaluator.layers: layer does not exist in this backbone; found 'conv2'; allowed: stem, body",
        ),
        (
            {"pretrain": pretrain(batch_size=31)},
            "stages.pretrain.batch_size: is larger than the data (30 images); found 31; allowed: 1 to 30",
        ),
        (
            {"pretrain": pretrain(), "probe": {"weights": "pretrain", "evaluator": {**PROBE, "name": "mlp_probe", "batch_size": 1}}},
            "stages.probe.evaluator.batch_size: is too small for a head with BatchNorm; found 1; allowed: 2 or more",
        ),
        (
            {"probe": probe("random", batch_size=31)},
            "stages.probe.evaluator.batch_size: is larger than the data (30 images); found 31; allowed: 1 to 30",
        ),
        (
            {
                "few": {
                    "weights": "random",
                    "evaluator": {"name": "semi_supervised", "labels_per_class": [11], "layers": ["stem"], "batch_size": 8},
                }
            },
            "stages.few.evaluator.labels_per_class: more than the smallest class has; found 11; allowed: at most 10",
        ),
        (
            {"pretrain": pretrain("mae")},
            "stages.pretrain.task: MAE needs a backbone with masked_encode; found ['map']; choose another backbone than TinyConv",
        ),
        (
            {"pretrain": pretrain(), "more": pretrain("colorization", weights="pretrain")},
            "stages.more.task: Colorization needs a backbone built for lightness images; found 'rgb'; "
            "build it with task.image_spec(data.image())",
        ),
    ],
)
def test_what_cannot_work_is_named_by_its_path(stages: dict[str, Any], message: str):
    assert refused(stages) == message


def test_what_a_task_refuses_of_the_images_has_its_path():
    stages = {"pretrain": pretrain({"name": "rotnet", "angles": [0, 45]}), "probe": probe()}
    small = recipe(stages, data={"name": "somewhere"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sslkit_rotnet.task.MIN_SIDE", 17)
        for look in (lambda: check_recipe(small), lambda: backbone_image(small, small.stage("probe"), small.data.image())):
            with pytest.raises(
                RecipeError, match=r"^stages\.pretrain\.task\.angles: interpolation needs images of at least 17 x 17 pixels"
            ):
                look()


def test_what_a_backbone_refuses_has_its_path():
    message = refused({"pretrain": pretrain()}, backbone={"name": "nin", "num_blocks": 9})
    assert message == "backbone.num_blocks: unknown depth; found 9; allowed: 3, 4, 5"


@pytest.mark.parametrize(
    ("top", "own", "path"), [({"device": "cuda:99"}, {}, "device"), ({}, {"device": "cuda:99"}, "stages.pretrain.device")]
)
def test_a_device_that_is_not_there_is_named_where_it_is_written(top: dict, own: dict, path: str):
    message = refused({"pretrain": pretrain(**own)}, **top)
    assert message.startswith(f"{path}: is not usable on this machine; found 'cuda:99'; allowed: ")


@pytest.mark.parametrize(
    ("data", "stages", "message"),
    [
        ({"without": "pretrain"}, {"pretrain": pretrain()}, "stages.pretrain: the dataset has no images to pretrain on"),
        ({"without": "test"}, {"probe": probe("random")}, "stages.probe: there are no labelled test images"),
        ({"labels": False}, {"probe": probe("random")}, "stages.probe: the training images have no labels"),
    ],
)
def test_data_that_is_missing_is_an_error_of_the_data(data: dict, stages: dict[str, Any], message: str):
    with pytest.raises(DataError, match=f"^{message}"):
        check_recipe(recipe(stages, data={"name": "somewhere", **data}))


UNFIT = {
    "16 bits": (np.zeros((9, 9), np.uint16), {}, r"0\.png: its pixels are uint16, and no window says .*; set window"),
    "bands": (
        np.zeros((9, 9, 4), np.uint8),
        {"color": "bands", "mean": [0.5] * 3, "std": [0.5] * 3},
        "it has 4 channels, and the data says 3",
    ),
    "skipped": (np.zeros((9, 9), np.uint16), {"on_error": "skip"}, "none of the 2 images can be decoded"),
}


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("split", ["train", "test"])
def test_files_that_no_run_could_read_are_refused_by_the_first_of_each_split(tmp_path: Path, kind: str, split: str):
    values, options, message = UNFIT[kind]
    num_chs = len(options.get("mean", "rgb"))
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        for index in range(2):
            good = np.zeros((9, 9, num_chs), np.uint8)
            Image.fromarray(values if name == split else good).save(tmp_path / name / f"{index}.png")
    data = {"name": "image_folder", "root": str(tmp_path), "image_size": 8, **options}
    with pytest.raises(DataError, match=message):
        check_recipe(recipe({"pretrain": pretrain()}, data=data))


def test_a_file_that_is_left_out_hides_no_others(tmp_path: Path):
    (tmp_path / "0.png").write_bytes(b"damaged")
    for index in range(1, 9):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{index}.png")
    data = {"name": "image_folder", "root": str(tmp_path), "image_size": 8, "on_error": "skip"}
    assert check_recipe(recipe({"pretrain": pretrain()}, data=data)) == ""
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        check_recipe(recipe({"pretrain": pretrain()}, data=data | {"on_error": "stop"}))


def test_pretraining_needs_no_labels():
    assert check_recipe(recipe({"pretrain": pretrain()}, data={"name": "somewhere", "labels": False, "without": "test"})) == ""


# ---------------------------------------------------------------------------------------------------------- what it is built for


def test_a_backbone_is_built_for_what_its_first_task_wants():
    data = Somewhere().image()
    stages = {
        "pretrain": pretrain("colorization"),
        "more": pretrain("colorization", weights="pretrain"),
        "probe": probe("more"),
        "untrained": probe("random"),
        "other": pretrain(),
    }
    mine = recipe(stages)
    wanted = Colorization().image_spec(data)
    assert {stage.name: backbone_image(mine, stage, data) for stage in mine.stages} == {
        "pretrain": wanted,
        "more": wanted,
        "probe": wanted,
        "untrained": data,
        "other": data,
    }
