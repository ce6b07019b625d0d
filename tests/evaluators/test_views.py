"""The views of evaluators: measured as on images that were changed beforehand, random ones drawn by the fit itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkit import (
    KNN,
    Arrays,
    Augment,
    Backbone,
    ConvProbe,
    Evaluator,
    FeatureQuality,
    FineTune,
    LinearProbe,
    MLPProbe,
    OptionError,
    RecipeError,
    RunInterruptedError,
    SemiSupervised,
    Supervised,
    load_recipe,
)
from sslkit.evaluators import feature_cache
from sslkit.run.networks import backbone_image
from sslkit.run.preflight import check_recipe
from sslkit.training.seeds import global_seed
from sslkit.views import View
from tests.contract.miniatures.backbones import TinyConv, TinyTokens
from tests.evaluators.labeled import Steps, arrays, context, copy_of, images_through, labeled
from tests.recipes import HEAD, refusal

SIDE = 12
MIDDLE = View(center_crop={"size": 8})
UNCHANGED = View(horizontal_flip={"probability": 0.0})
CROP_AND_FLIP = View(random_resized_crop={"size": 8, "scale": (0.4, 1.0)}, horizontal_flip={})
TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 8}
EVALUATORS: dict[str, Callable[..., Evaluator]] = {
    "linear": lambda **options: LinearProbe(layers=("stem", "body"), **TRAINING, **options),
    "mlp": lambda **options: MLPProbe(layers=("stem",), **TRAINING, **options),
    "conv": lambda **options: ConvProbe(layers=("stem",), **TRAINING, **options),
    "finetune": lambda **options: FineTune(**TRAINING, **options),
    "supervised": lambda **options: Supervised(head="mlp", **TRAINING, **options),
    "few labels": lambda **options: SemiSupervised(layers=("stem",), labels_per_class=(3,), images_per_epoch=16, **TRAINING, **options),
    "few labels, trained": lambda **options: SemiSupervised(
        layers=("body",), labels_per_class=(2,), images_per_epoch=16, freeze=False, **TRAINING, **options
    ),
    "knn": lambda **options: KNN(layers=("stem", "body"), k=3, **options),
    "feature quality": lambda **options: FeatureQuality(layers=("stem",), **options),
}


def images(size: int = SIDE) -> Arrays:
    return arrays(size=size)


def network(side: int = 8, kind: type[Backbone] = TinyConv) -> Backbone:
    with global_seed(0):
        return kind(images().image()._replace(height=side, width=side))


def evaluated(evaluator: Evaluator, data: Arrays, **options: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics, and what was trained."""
    backbone = network()
    evaluator.check(backbone, labeled(data))
    metrics, trained, heads, _ = evaluator.evaluate(backbone, labeled(data), context(**options))
    return metrics, copy_of(nn.ModuleDict({"heads": nn.ModuleDict(heads), **({"backbone": trained} if trained else {})}))


def assert_equal(one: tuple[dict[str, float], dict[str, Tensor]], two: tuple[dict[str, float], dict[str, Tensor]]) -> None:
    assert one[0] == two[0]
    assert one[1].keys() == two[1].keys()
    assert all(torch.equal(one[1][name], two[1][name]) for name in one[1])


def cropped() -> Arrays:
    """The middles of the images."""
    data = images()
    middles = {name: getattr(data, name)[..., 2:10, 2:10] for name in ("train_images", "test_images")}
    return Arrays(**middles, train_labels=data.train_labels, test_labels=data.test_labels)


@pytest.mark.parametrize(
    ("name", "budget"),
    [*((name, feature_cache.BUDGET) for name in EVALUATORS), *((name, 0) for name in ("linear", "conv", "few labels"))],
    ids=lambda value: {0: "computed", feature_cache.BUDGET: "kept"}.get(value, value),
)
def test_a_test_view_is_as_if_all_images_were_changed_beforehand(name: str, budget: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feature_cache, "BUDGET", budget)
    assert_equal(evaluated(EVALUATORS[name](test_view=MIDDLE), images()), evaluated(EVALUATORS[name](), cropped()))


@pytest.mark.parametrize("name", ["linear", "mlp", "supervised", "few labels, trained"])
def test_a_train_view_replaces_it_on_training_images(name: str):
    still = EVALUATORS[name](train_view=MIDDLE, test_view=View(resize={"size": 8}))
    data, small = images(), cropped()
    mixed = Arrays(
        train_images=small.train_images,
        train_labels=data.train_labels,
        test_images=View(resize={"size": 8})(torch.as_tensor(data.test_images)),
        test_labels=data.test_labels,
    )
    assert_equal(evaluated(still, data), evaluated(EVALUATORS[name](), mixed))


@pytest.mark.parametrize("name", ["linear", "finetune", "few labels"])
def test_an_interrupted_evaluation_with_a_random_view_goes_on_with_the_same_bits(name: str, tmp_path: Path):
    evaluator = EVALUATORS[name](train_view=CROP_AND_FLIP, test_view=MIDDLE, augment=Augment(crop_padding=1))
    with pytest.raises(RunInterruptedError):
        evaluated(evaluator, images(), folder=tmp_path, **Steps(3).watch)
    expected = evaluated(evaluator, images())
    assert_equal(evaluated(evaluator, images(), folder=tmp_path), expected)
    calm = evaluated(EVALUATORS[name](test_view=MIDDLE, augment=Augment(crop_padding=1)), images())
    assert any(not torch.equal(calm[1][key], expected[1][key]) for key in calm[1]) or not calm[1]


@pytest.mark.parametrize(("view", "passes"), [(MIDDLE, 1), (CROP_AND_FLIP, 5)], ids=["still", "random"])
def test_features_are_kept_where_nothing_is_random(view: View, passes: int):
    evaluator = LinearProbe(layers=("body",), train_view=view, test_view=MIDDLE, epochs=5, batch_size=8)
    backbone = network()
    sizes = images_through(backbone)
    evaluator.evaluate(backbone, labeled(images()), context())
    assert sum(size for size in sizes if size > 1) == passes * 30 + 15


def test_a_view_and_crop_padding_are_kept_together():
    """Each way to crop is one row, and the view is made of each."""
    options: dict[str, Any] = {"augment": Augment(horizontal_flip=True), "test_view": MIDDLE, "epochs": 6, "batch_size": 8}
    found = []
    for budget in (feature_cache.BUDGET, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feature_cache, "BUDGET", budget)
            found.append(evaluated(LinearProbe(layers=("stem",), **options), images()))
    for name in found[0][1]:
        torch.testing.assert_close(found[0][1][name], found[1][1][name])


def test_a_network_that_begins_here_is_built_for_the_views():
    spec = images().image()
    assert LinearProbe(layers=("stem",)).image_spec(spec) == spec
    assert KNN(layers=("stem",), test_view=MIDDLE).image_spec(spec) == spec._replace(height=8, width=8)
    assert Supervised(test_view=MIDDLE).image_spec(spec)[:2] == (8, 8)
    assert Supervised(train_view=View("mae", size=10), test_view=MIDDLE).image_spec(spec)[:2] == (10, 10)
    assert Supervised(train_view=View("mae", size=10)).image_spec(spec)[:2] == (10, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("knn", {"test_view": CROP_AND_FLIP}, "test_view.random_resized_crop: is random, and images are measured once; "),
        ("linear", {"test_view": View(color_jitter={"hue": 0.1})}, "test_view.color_jitter: is random, and images are measured once; "),
        ("finetune", {"test_view": "simclr"}, "test_view: must be an object of the class View; found 'simclr'; a name is for recipes: "),
    ],
)
def test_test_images_are_looked_at_once(name: str, options: dict[str, Any], message: str):
    assert refusal(OptionError, EVALUATORS[name], **options).startswith(message)


class Fixed(TinyTokens):
    """Takes images of its own size alone, as many transformers do."""

    def extract(self, x, layers):
        if x.shape[-2:] != self.image[:2]:
            raise AssertionError(f"Input height ({x.shape[-2]}) doesn't match model ({self.image.height}).")
        return super().extract(x, layers)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (
            KNN(layers=("block",), k=3),
            "test_view: the network cannot take images of 12 x 12 pixels (Input height (12) doesn't match model (8).);"
            " allowed: 8 x 8, which it is built for; end the view with center_crop, in that size",
        ),
        (
            LinearProbe(layers=("block",), train_view=CROP_AND_FLIP, **TRAINING),
            "test_view: the network cannot take images of 12 x 12 pixels (",
        ),
        (
            FineTune(train_view=View("mae", size=10), test_view=MIDDLE, **TRAINING),
            "train_view: the network cannot take images of 10 x 10 pixels (",
        ),
    ],
)
def test_what_the_network_cannot_take_is_found_before_anything_is_computed(evaluator: Any, message: str, device: str):
    backbone = network(8, Fixed).to(device)
    assert refusal(OptionError, evaluator.check, backbone, labeled(images())).startswith(message)
    KNN(layers=("block",), k=3, test_view=MIDDLE).check(backbone, labeled(images()))
    LinearProbe(layers=("block",), train_view=CROP_AND_FLIP, test_view=MIDDLE, **TRAINING).check(backbone, labeled(images()))


@pytest.mark.parametrize(
    ("kind", "evaluator", "found"),
    [
        (TinyConv, MLPProbe(layers=("stem",), test_view=MIDDLE, train_view=UNCHANGED, **TRAINING), "(4, 6, 6) and (4, 4, 4) of stem"),
        (TinyTokens, ConvProbe(layers=("block",), test_view=MIDDLE, train_view=UNCHANGED, **TRAINING), "(9, 8) and (4, 8) of block"),
    ],
)
def test_a_head_has_one_shape(kind: type[Backbone], evaluator: Any, found: str):
    message = refusal(OptionError, evaluator.check, network(8, kind), labeled(images()))
    assert message.endswith(f"found {found!r}; let train_view and test_view end in one size".replace('"', "'"))
    ConvProbe(layers=("stem",), test_view=MIDDLE, train_view=UNCHANGED, **TRAINING).check(network(), labeled(images()))
    LinearProbe(layers=("block",), test_view=MIDDLE, train_view=UNCHANGED, **TRAINING).check(network(8, TinyTokens), labeled(images()))


PROTOCOL = (
    HEAD.replace('name = "digits"', 'name = "digits"\nimage_size = 18')
    + """
[stages.probe]
weights = "random"

[stages.probe.evaluator]
name = "linear_probe"
layers = ["conv2"]
epochs = 1
batch_size = 500
train_view = { random_resized_crop = { size = 16 }, horizontal_flip = {} }
test_view = { resize = { size = 18 }, center_crop = { size = 16 } }
"""
)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (
            "train_view = { random_resized_crop = { size = 16, scale = [0.0, 2.0] } }",
            "train_view.random_resized_crop.scale: is not an interval within bounds; found (0.0, 2.0)",
        ),
        ("test_view = { horizontal_flip = {} }", "test_view.horizontal_flip: is random, and images are measured once; "),
        (
            "train_view = { gaussian_blur = { kernel_size = 99 } }",
            "train_view.gaussian_blur.kernel_size: does not fit; found 99; allowed: an odd number up to 35",
        ),
    ],
)
def test_views_of_a_recipe_are_checked_before_anything_is_computed(view: str, message: str, tmp_path: Path):
    path = tmp_path / "protocol.toml"
    path.write_text(PROTOCOL)
    recipe = load_recipe(path)
    assert check_recipe(recipe) == ""
    assert backbone_image(recipe, recipe.stages[0], recipe.data.image())[:2] == (16, 16)
    key = view.partition(" =")[0]
    path.write_text("".join(line for line in PROTOCOL.splitlines(keepends=True) if not line.startswith(key)) + view)
    assert refusal(RecipeError, lambda: check_recipe(load_recipe(path))).startswith(f"stages.probe.evaluator.{message}")
