import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from sslkit import Augment, Batch, DataError, FitStart, LabeledData, OptionError, RunInterruptedError, Step
from sslkit.contract.backbone import Backbone, FeatureInfo
from sslkit.contract.events import Event
from sslkit.data.arrays import ArraySet
from sslkit.data.loader import Loader
from sslkit.evaluators import feature_cache as frozen_trunk
from sslkit.evaluators.classifier import Classifier, Fitted, FrozenFeatures, build_heads, check_classifier, check_layers, fit_classifier
from sslkit.storage.tensor_file import load_tensors
from sslkit.training.state import TrainState
from tests.contract.miniatures.backbones import TinyConv
from tests.evaluators.labeled import CPU, NUM_CLASSES, Steps, changed, context, copy_of, images_through, labeled, network, training

DATA = labeled()


@pytest.fixture(params=[frozen_trunk.BUDGET, 0], ids=["kept", "computed"], autouse=True)
def budget(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Frozen features are kept between epochs, or computed in each; what is fitted must not depend on it."""
    monkeypatch.setattr(frozen_trunk, "BUDGET", request.param)
    return request.param


def fit(backbone: Backbone, layers: Iterable[str] = ("stem", "body"), *, freeze: bool = True, **options: Any) -> tuple[dict, dict]:
    """Metrics and trained heads. Options of the classifier, the data and the context."""
    classifier = {name: options.pop(name) for name in ("subset", "images_per_epoch") if name in options}
    data, settings = options.pop("data", DATA), options.pop("training", training())
    surroundings = context(**options)
    heads = build_heads("linear", tuple(layers), backbone, data, surroundings)
    return fit_classifier(backbone, heads, data, settings, surroundings, freeze=freeze, **classifier).metrics, heads


def objective(*, freeze: bool = True, **options: Any) -> Classifier:
    backbone = network(dropout=0.0)
    frozen = FrozenFeatures() if freeze else None
    return Classifier(backbone, build_heads("linear", ("stem", "body"), backbone, DATA, context()), DATA, frozen=frozen, **options)


def same(one: nn.Module, two: nn.Module) -> bool:
    return not changed(one, two.state_dict())


# ------------------------------------------------------------------------------------------------------------ the objective


def test_labels_are_looked_up_by_index_among_those_of_the_same_images():
    indices = torch.tensor([14, 0, 3])
    for train, images in ((True, DATA.train), (False, DATA.test)):
        views = objective().make_views(Batch(images.read(indices.tolist()), indices), Generator(), train=train)
        assert views["labels"].tolist() == [int(images.labels[i]) for i in indices]
        assert torch.equal(views["images"], images.read(indices.tolist()))


def test_the_loss_is_the_sum_of_each_heads_cross_entropy():
    classifier = objective().eval()
    views = classifier.make_views(Batch(DATA.train.read(range(9)), torch.arange(9)), Generator(), train=True)
    output = classifier(views, Step("main"))
    expected = 0.0
    for layer, head in classifier.heads.items():
        logits = head(classifier.backbone(views["images"], [layer])[layer]).tolist()
        labels = views["labels"].tolist()
        losses = [math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(logits, labels, strict=True)]
        expected += sum(losses) / len(losses)
        correct = sum(row.index(max(row)) == label for row, label in zip(logits, labels, strict=True))
        total, num = output.metrics[f"{layer}.top1"]
        assert (total.item(), num) == (100.0 * correct, 9)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert set(output.metrics) == {"stem.top1", "body.top1"}


def test_heads_do_not_touch_each_other():
    """The gradient of the sum is, for each head, that of its own loss."""
    classifier = objective()
    views = classifier.make_views(Batch(DATA.train.read(range(9)), torch.arange(9)), Generator(), train=True)
    classifier.eval()(views, Step("main")).loss.backward()
    for layer, head in classifier.heads.items():
        weight = head.linear.weight
        features = classifier.backbone(views["images"], [layer])[layer].mean((2, 3))
        error = (features @ weight.T + head.linear.bias).softmax(1) - torch.eye(NUM_CLASSES)[views["labels"]]
        assert torch.allclose(weight.grad, error.T @ features / 9, atol=1e-6)


def epochs(classifier: Classifier, number: int = 1) -> list[list[int]]:
    """The images of several epochs, sorted: the loop shuffles them."""
    state = TrainState(classifier, Loader(DATA.train, batch_size=8, device=CPU), training(), context())
    found = [classifier.epoch_indices(state) for _ in range(number)]
    return [[] if indices is None else sorted(indices.tolist()) for indices in found]


@pytest.mark.parametrize(
    ("subset", "size", "expected"),
    [
        ([1, 4, 7], 9, [1, 1, 1, 4, 4, 4, 7, 7, 7]),
        ([1, 4, 7], 3, [1, 4, 7]),
        ([5], None, [5] * 30),  # by default as many as there are training images
    ],
)
def test_a_subset_is_repeated_to_the_size_of_an_epoch(subset: list[int], size: int | None, expected: list[int]):
    assert epochs(objective(subset=torch.tensor(subset), images_per_epoch=size)) == [expected]


@pytest.mark.parametrize("size", [2, 5])
def test_what_does_not_divide_evenly_is_drawn_for_each_epoch(size: int):
    """The first images of a subset, every time, would be those of a few classes."""
    found = epochs(objective(subset=torch.tensor([1, 4, 7]), images_per_epoch=size), 20)
    counts = [[epoch.count(index) for index in (1, 4, 7)] for epoch in found]
    assert {tuple(sorted(count)) for count in counts} == {(0, 1, 1) if size == 2 else (1, 2, 2)}
    assert len(set(map(tuple, counts))) == 3


def test_without_a_subset_every_image_is_used_once():
    assert epochs(objective()) == [[]]


def test_images_without_labels_are_refused():
    bare = ArraySet(DATA.test.read(range(3)), DATA.test.image)
    with pytest.raises(DataError, match=r"^the images have no labels; use data with class folders, or give labels$"):
        Classifier(network(), {}, LabeledData(DATA.train, bare))


# ----------------------------------------------------------------------------------------------------------------- freezing


def test_a_frozen_backbone_comes_out_bit_identical_and_the_heads_do_not():
    backbone = network()
    backbone.train()
    before, heads_before = copy_of(backbone), build_heads("linear", ("stem", "body"), backbone, DATA, context())
    _, heads = fit(backbone)
    assert changed(backbone, before) == []
    assert {name for name in before if "running" in name or "num_batches" in name}, "the network must have BatchNorm statistics"
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in backbone.parameters())
    for layer, head in heads.items():
        assert changed(head, copy_of(heads_before[layer])) == ["linear.weight", "linear.bias"]


def test_a_trained_backbone_moves_with_its_statistics():
    backbone = network()
    before = copy_of(backbone)
    fit(backbone, freeze=False)
    assert set(changed(backbone, before)) == set(before)


def test_dropout_of_a_frozen_backbone_is_off():
    one, two = (fit(network(dropout=dropout))[1] for dropout in (0.0, 0.9))
    assert same(one["body"], two["body"])


# ---------------------------------------------------------------------------------------------------------------- measuring


class Counting(TinyConv):
    """Writes down what it was asked for."""

    def extract(self, x: Tensor, layers: Any) -> dict[str, Tensor]:
        self.__dict__.setdefault("calls", []).append((len(x), tuple(layers)))
        return super().extract(x, layers)


def test_layers_side_by_side_equal_each_layer_alone():
    metrics, heads = fit(network())
    for layer in ("stem", "body"):
        alone, head = fit(network(), [layer])
        assert alone == {f"{layer}.top1": metrics[f"{layer}.top1"]}
        assert same(head[layer], heads[layer])


def test_all_layers_share_one_forward_pass_that_stops_at_the_deepest():
    backbone = network(Counting)
    heads = build_heads("linear", ("stem", "body"), backbone, DATA, context())
    calls = backbone.__dict__["calls"]
    calls.clear()
    fit_classifier(backbone, heads, DATA, training(epochs=1), context(), freeze=True)
    # One to learn the size of the features; 30 training images, then 15 test images.
    assert calls == [(size, ("stem", "body")) for size in (1, 8, 8, 8, 6, 8, 7)]
    backbone = network(Counting)
    fit(backbone, ["stem"])
    assert {layers for _, layers in backbone.__dict__["calls"]} == {("stem",)}


def test_predictions_are_those_on_the_test_images_in_their_order():
    backbone = network()
    heads = build_heads("linear", ("stem", "body"), backbone, DATA, context())
    fitted = fit_classifier(backbone, heads, DATA, training(), context(), freeze=True)
    assert set(fitted.predictions) == {"stem", "body"}
    for layer, found in fitted.predictions.items():
        with torch.no_grad():
            logits = heads[layer].eval()(backbone.eval()(DATA.test.read(range(15)), [layer])[layer])
        assert torch.equal(found.classes, logits.argmax(dim=1))
        assert torch.equal(found.targets, DATA.test.labels)
        assert (found.num_classes, found.in_top5) == (DATA.num_classes, None)
        assert fitted.metrics[f"{layer}.top1"] == pytest.approx(100 * (found.classes == found.targets).double().mean().item())


def test_it_learns_what_is_there_to_learn():
    metrics, _ = fit(network(), training=training(epochs=8))
    assert metrics["stem.top1"] > 90
    assert metrics["body.top1"] > 60


# ---------------------------------------------------------------------------------------------------------------- few labels


def with_noise_at(indices: list[int]) -> LabeledData:
    """The same data, but for the pixels of some training images."""
    pixels = DATA.train.pixels.clone()
    pixels[indices] = 255 - pixels[indices]
    return DATA._replace(train=ArraySet(pixels, DATA.train.image, labels=DATA.train.labels, classes=DATA.train.classes))


def test_only_the_subset_is_trained_on():
    subset = torch.tensor([0, 1, 2, 10, 11, 12])
    outside = [index for index in range(30) if index not in subset.tolist()]
    heads, elsewhere, inside = (fit(network(), subset=subset, data=data)[1] for data in (DATA, with_noise_at(outside), with_noise_at([11])))
    assert all(same(heads[layer], elsewhere[layer]) for layer in heads)
    assert not any(same(heads[layer], inside[layer]) for layer in heads)


@pytest.mark.parametrize(("options", "num_steps"), [({}, 8), ({"images_per_epoch": 18}, 6)])
def test_a_subset_takes_as_many_steps_as_the_images_per_epoch(options: dict, num_steps: int):
    events: list[Event] = []
    fit(network(), subset=torch.tensor([0, 1, 2]), emit=events.append, part="k1", **options)
    start = next(event for event in events if isinstance(event, FitStart))
    assert (start.part, start.num_steps, start.num_epochs) == ("k1", num_steps, 2)


# --------------------------------------------------------------------------------------------------------------- checkpoints


def interrupted(folder: Path, *, freeze: bool) -> dict[str, Tensor]:
    """The checkpoint of a fit that was stopped after three steps."""
    with pytest.raises(RunInterruptedError, match=r"^stopped in stage 'probe' after 3 steps$"):
        fit(network(), freeze=freeze, folder=folder, **Steps(3).watch)
    return load_tensors(max(folder.glob("checkpoint-*")))[0]


def test_a_checkpoint_leaves_the_frozen_trunk_and_the_labels_out(tmp_path: Path):
    frozen, whole = (interrupted(tmp_path / str(freeze), freeze=freeze) for freeze in (True, False))
    in_model = {name for name in frozen if name.startswith("objective.")}
    assert in_model == {f"objective.heads.{layer}.linear.{part}" for layer in ("stem", "body") for part in ("weight", "bias")}
    trunk = {f"objective.backbone.{name}" for name in network().state_dict()}
    assert {name for name in whole if name.startswith("objective.")} == in_model | trunk


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "trained"])
def test_an_interrupted_fit_goes_on_with_the_same_bits(freeze: bool, tmp_path: Path):
    interrupted(tmp_path, freeze=freeze)
    resumed, whole = network(), network()
    metrics, heads = fit(resumed, freeze=freeze, folder=tmp_path)
    expected, expected_heads = fit(whole, freeze=freeze)
    assert metrics == expected
    assert same(resumed, whole)
    assert all(same(heads[layer], expected_heads[layer]) for layer in heads)


def test_an_interrupted_fit_on_few_augmented_images_goes_on_with_the_same_bits(tmp_path: Path):
    options: dict[str, Any] = {
        "subset": torch.tensor([3, 4, 5]),  # 54 copies, and 90 images drawn
        "training": training(epochs=3, augment=Augment(crop_padding=1, horizontal_flip=True)),
    }
    with pytest.raises(RunInterruptedError, match=r"after 6 steps$"):
        fit(network(), folder=tmp_path, **Steps(6).watch, **options)
    metrics, heads = fit(network(), folder=tmp_path, **options)
    expected, expected_heads = fit(network(), **options)
    assert metrics == expected
    assert all(same(heads[layer], expected_heads[layer]) for layer in heads)


@pytest.mark.parametrize("num_steps", [3, 8], ids=["interrupted", "finished"])
def test_resuming_computes_the_features_that_are_still_needed(num_steps: int, budget: int, tmp_path: Path):
    with pytest.raises(RunInterruptedError):
        fit(network(), folder=tmp_path, **Steps(num_steps).watch)
    if num_steps == 8:
        fit(network(), folder=tmp_path)
    backbone = network()
    sizes = images_through(backbone)
    fit(backbone, folder=tmp_path)
    overhead = 1 + 1  # to learn the shapes, and their size in bytes
    left = 0 if num_steps == 8 else 30 if budget else 60 - 3 * 8
    assert sum(sizes) == overhead + left + 15


# -------------------------------------------------------------------------------------------------- kept features and computed ones


@pytest.mark.parametrize("kind", ["linear", "mlp", "conv"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_kept_features_train_the_same_heads_as_computed_ones(
    kind: Any, autocast: torch.dtype | None, budget: int, monkeypatch: pytest.MonkeyPatch
):
    """The same copies of the same images in the same order: only rounding differs."""
    settings = training(epochs=3, augment=Augment(crop_padding=1, horizontal_flip=True))
    subset = torch.tensor([3, 4, 5])  # 54 copies, and 90 images drawn
    found: list[tuple[Fitted, dict[str, Tensor]]] = []
    for size in (budget, 0):
        monkeypatch.setattr(frozen_trunk, "BUDGET", size)
        backbone = network()
        sizes = images_through(backbone)
        surroundings = context(autocast=autocast)
        heads = build_heads(kind, ("stem", "body"), backbone, DATA, surroundings)
        fitted = fit_classifier(backbone, heads, DATA, settings, surroundings, freeze=True, subset=subset)
        assert sum(sizes) == 2 + (54 if size else 90) + 15
        found.append((fitted, copy_of(nn.ModuleDict(heads))))
    (kept, kept_heads), (computed, computed_heads) = found
    tolerance = 1e-4 if autocast is None else 0.05
    for layer in ("stem", "body"):
        assert torch.equal(kept.predictions[layer].targets, computed.predictions[layer].targets)
        assert (kept.predictions[layer].classes != computed.predictions[layer].classes).sum() <= (0 if autocast is None else 1)
    for name, tensor in kept_heads.items():
        torch.testing.assert_close(tensor, computed_heads[name], rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------------------------------- heads and refusals


def test_a_heads_first_weights_depend_on_seed_stage_part_and_layer_alone():
    backbone = network()

    def head(layers: tuple[str, ...] = ("body",), **options: Any) -> nn.Module:
        return build_heads("mlp", layers, backbone, DATA, context(**options), width=4)["body"]

    state = torch.get_rng_state()
    first = head()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(torch.initial_seed() % 1000 + 1)
    assert same(head(("stem", "body")), first)
    torch.set_rng_state(state)
    assert not any(same(head(**{option: value}), first) for option, value in {"seed": 4, "stage": "other", "part": "k1"}.items())


def test_layers_that_cannot_be_probed_are_refused():
    backbone = network()
    check_layers("layers", ("body", "stem"), backbone)
    with pytest.raises(OptionError, match=r"^layers: is empty; allowed: stem, body$"):
        check_layers("layers", (), backbone)
    with pytest.raises(OptionError, match=r"^layer: layer does not exist in this backbone; found 'conv9'; allowed: stem, body$"):
        check_layers("layer", ("stem", "conv9"), backbone)
    with pytest.raises(OptionError, match=r"^layers: names a layer twice; found \['stem', 'stem'\]$"):
        check_layers("layers", ("stem", "stem"), backbone)


def test_a_convolution_on_a_vector_is_refused():
    backbone = network()
    backbone.feature_info = (*backbone.feature_info, FeatureInfo("logits", 8, 1, "vector"))
    check_classifier("layers", ["stem"], "conv", training(), backbone, DATA)
    check_classifier("layers", ["logits"], "mlp", training(), backbone, DATA)
    with pytest.raises(OptionError, match=r"^layers: a convolution needs a map or tokens, and this layer is a vector; found 'logits'$"):
        check_classifier("layers", ["stem", "logits"], "conv", training(), backbone, DATA)
