from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import sslkit.evaluators.few_labels as module
from sslkit import ArtifactError, Augment, DataError, LabeledData, OptionError, RunInterruptedError, SemiSupervised
from sslkit.data.arrays import ArraySet
from sslkit.evaluators import feature_cache as frozen_trunk
from sslkit.evaluators.classifier import Fitted, fit_classifier
from sslkit.evaluators.few_labels import select_per_class
from sslkit.storage.identity import state_hash
from tests.evaluators.labeled import NUM_CLASSES, Steps, arrays, context, images_through, labeled, network

DATA = labeled()


def semi(**options: Any) -> SemiSupervised:
    """Two epochs of four steps for each K."""
    defaults: dict[str, Any] = {"labels_per_class": (1, 4), "layers": ("stem",), "head": "linear", "epochs": 2, "batch_size": 8}
    return SemiSupervised(**{**defaults, **options})


class Fits:
    """Stands in for ``fit_classifier`` and writes down what it was given."""

    def __init__(self, accuracies: list[float] | None = None) -> None:
        self.subsets: list[list[int]] = []
        self.parts: list[str] = []
        self.backbones: list[tuple[int, str]] = []
        self._accuracies = iter(accuracies or [])

    def __call__(self, backbone: Any, heads: Any, data: Any, training: Any, surroundings: Any, **options: Any) -> Fitted:
        self.subsets.append(options["subset"].tolist())
        self.parts.append(surroundings.part)
        self.backbones.append((id(backbone), state_hash(backbone)))
        if (accuracy := next(self._accuracies, None)) is not None:
            return Fitted({f"{layer}.top1": accuracy + 10 * depth for depth, layer in enumerate(heads)}, {})
        return fit_classifier(backbone, heads, data, training, surroundings, **options)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch):
    def start(accuracies: list[float] | None = None) -> Fits:
        fits = Fits(accuracies)
        monkeypatch.setattr(module, "fit_classifier", fits)
        return fits

    return start


# ---------------------------------------------------------------------------------------------------------------- the labels


LABELS = torch.randint(0, 3, (60,), generator=Generator().manual_seed(0))


def test_random_gives_every_image_a_chance():
    seen = torch.cat([select_per_class(LABELS, 5, "random", Generator().manual_seed(seed)) for seed in range(60)])
    assert len(seen.unique()) == 60


def test_first_draws_nothing():
    generator = Generator().manual_seed(0)
    before = generator.get_state()
    select_per_class(LABELS, 5, "first", generator)
    assert torch.equal(generator.get_state(), before)


def test_no_more_can_be_chosen_than_the_smallest_class_has():
    most, label = int(LABELS.bincount().min()), int(LABELS.bincount().argmin())
    assert len(select_per_class(LABELS, most, "random", Generator())) == 3 * most
    with pytest.raises(DataError, match=f"class {label} has {most} images; found {most + 1}; allowed: at most {most} labels per class"):
        select_per_class(LABELS, most + 1, "first", Generator())


def test_labels_need_not_start_at_zero():
    assert select_per_class(torch.tensor([7, 3, 7, 3]), 1, "first", Generator()).tolist() == [0, 1]


def labels_chosen(watch: Any, *, data: LabeledData = DATA, surroundings: dict | None = None, **options: Any) -> list[list[int]]:
    fits = watch([50.0] * 99)
    semi(**options).evaluate(network(), data, context(**(surroundings or {})))
    return fits.subsets


def relabeled(labels: list[int]) -> LabeledData:
    """The same images with other classes."""
    train = ArraySet(DATA.train.pixels, DATA.train.image, labels=torch.tensor(labels), classes=DATA.train.classes)
    return DATA._replace(train=train)


SHUFFLED = relabeled([0] * 10 + [2, 1] * 10)  # classes do not take turns


def test_the_first_images_of_each_class_are_chosen_in_data_set_order(watch: Any):
    assert labels_chosen(watch, labels_per_class=(1, 3)) == [[0, 1, 2], list(range(9))]
    assert labels_chosen(watch, labels_per_class=(2,), data=SHUFFLED) == [[0, 1, 10, 11, 12, 13]]


def test_random_images_are_as_many_of_each_class(watch: Any):
    chosen = labels_chosen(watch, labels_per_class=(2, 5), selection="random", num_subsets=3, data=SHUFFLED)
    assert [len(subset) for subset in chosen] == [6, 6, 6, 15, 15, 15]
    for subset in chosen:
        assert len(set(subset)) == len(subset)
        assert SHUFFLED.train.labels[subset].bincount().tolist() == [len(subset) // NUM_CLASSES] * NUM_CLASSES
    assert len({tuple(subset) for subset in chosen}) == 6


@pytest.mark.parametrize("selection", ["first", "random"])
def test_every_stage_gets_the_same_labels(watch: Any, selection: str):
    """Pretrained features, random features and the supervised network are compared on the same images."""
    options: dict[str, Any] = {"selection": selection, "labels_per_class": (1, 4)}
    first = labels_chosen(watch, surroundings={"stage": "rotnet_few_labels"}, **options)
    assert labels_chosen(watch, surroundings={"stage": "supervised_few_labels"}, freeze=False, head="conv", epochs=3, **options) == first
    assert labels_chosen(watch, labels_per_class=(4,), selection=selection) == first[1:]


def test_another_seed_gets_other_random_labels(watch: Any):
    one, two = (labels_chosen(watch, selection="random", surroundings={"seed": seed}) for seed in (3, 4))
    assert one != two


# --------------------------------------------------------------------------------------------------------------- the figures


def test_one_subset_gives_one_figure_for_each_layer_and_k(watch: Any):
    fits = watch([20.0, 60.0])
    metrics = semi(layers=("stem", "body")).evaluate(network(), DATA, context()).metrics
    assert metrics == {"stem.k1.top1": 20.0, "body.k1.top1": 30.0, "stem.k4.top1": 60.0, "body.k4.top1": 70.0}
    assert fits.parts == ["k1", "k4"]


def test_several_subsets_give_mean_and_standard_deviation(watch: Any):
    fits = watch([10.0, 20.0, 60.0])
    metrics = semi(labels_per_class=(2,), selection="random", num_subsets=3).evaluate(network(), DATA, context()).metrics
    std = (((10 - 30) ** 2 + (20 - 30) ** 2 + (60 - 30) ** 2) / 2) ** 0.5
    assert metrics == {"stem.k2.top1": 30.0, "stem.k2.top1_std": pytest.approx(std)}
    assert fits.parts == ["k2-1", "k2-2", "k2-3"]


def test_each_k_may_have_its_own_number_of_subsets(watch: Any):
    fits = watch([10.0, 20.0, 60.0, 5.0])
    metrics = semi(labels_per_class=(2, 4), selection="random", num_subsets=(3, 1)).evaluate(network(), DATA, context()).metrics
    assert set(metrics) == {"stem.k2.top1", "stem.k2.top1_std", "stem.k4.top1"}
    assert (metrics["stem.k2.top1"], metrics["stem.k4.top1"]) == (30.0, 5.0)
    assert fits.parts == ["k2-1", "k2-2", "k2-3", "k4"]


def test_each_k_is_measured_as_if_alone():
    together = semi().evaluate(network(), DATA, context()).metrics
    alone = [semi(labels_per_class=(k,)).evaluate(network(), DATA, context()).metrics for k in (1, 4)]
    assert together == {**alone[0], **alone[1]}


def test_more_labels_help():
    metrics = semi(labels_per_class=(1, 10), head="mlp", epochs=6).evaluate(network(), DATA, context()).metrics
    assert metrics["stem.k10.top1"] > 60
    assert metrics["stem.k10.top1"] >= metrics["stem.k1.top1"]


# --------------------------------------------------------------------------------------------------------------- the network


def test_frozen_features_are_shared_by_all_k(watch: Any):
    fits, backbone = watch(), network()
    before = state_hash(backbone)
    evaluation = semi().evaluate(backbone, DATA, context())
    assert fits.backbones == [(id(backbone), before)] * 2
    assert state_hash(backbone) == before
    assert evaluation.backbone is None
    assert semi().frozen


def test_a_trained_network_starts_from_the_same_weights_for_each_k(watch: Any):
    fits, backbone = watch(), network()
    before = state_hash(backbone)
    evaluator = semi(freeze=False, selection="random", num_subsets=2)
    evaluator.evaluate(backbone, DATA, context())
    assert [state for _, state in fits.backbones] == [before] * 4
    assert id(backbone) not in {network_id for network_id, _ in fits.backbones}
    assert state_hash(backbone) == before
    assert not evaluator.frozen


@pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "trained"])
def test_it_goes_on_in_the_k_in_which_it_was_stopped(freeze: bool, tmp_path: Path):
    expected = semi(freeze=freeze).evaluate(network(), DATA, context())
    with pytest.raises(RunInterruptedError, match=r"after 3 steps$"):  # of the second K, whose fit counts anew
        semi(freeze=freeze).evaluate(network(), DATA, context(folder=tmp_path, **Steps(11).watch))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-k1-result.safetensors", "checkpoint-k4-000000003.safetensors"}
    assert (tmp_path / "checkpoint-k1-result.safetensors").stat().st_size < 10_000  # no weights
    again = Steps()
    assert semi(freeze=freeze).evaluate(network(), DATA, context(folder=tmp_path, **again.watch)) == expected
    assert again.taken == 5  # the steps that were left


@pytest.mark.parametrize("damaged", [False, True])
def test_a_finished_fit_is_repeated_only_if_its_result_is_damaged(damaged: bool, tmp_path: Path):
    evaluator = semi(freeze=False)
    expected = evaluator.evaluate(network(), DATA, context(folder=tmp_path))
    result = tmp_path / "checkpoint-k4-result.safetensors"
    if damaged:
        result.write_bytes(result.read_bytes()[:-3])
    again = Steps()
    assert evaluator.evaluate(network(), DATA, context(folder=tmp_path, **again.watch)) == expected
    assert again.taken == (8 if damaged else 0)
    with pytest.raises(ArtifactError, match=r"is a checkpoint of another fit \(training\.epochs: \d -> 9\)"):
        semi(freeze=False, epochs=9).evaluate(network(), DATA, context(folder=tmp_path))


# ------------------------------------------------------------------------------------------------------------ kept features


@pytest.mark.parametrize(
    ("options", "num_images"),
    [
        ({"selection": "first"}, 12 * 2),  # the subset of K = 1 is part of that of K = 4
        ({"selection": "random", "num_subsets": (2, 1)}, 14 * 2),  # of 3, 3 and 12 images, four are in two of them
        ({"selection": "first", "augment": Augment(crop_padding=1)}, 3 * 9 + 60),  # 108 copies are more than the 60 images drawn
        ({"selection": "first", "augment": Augment(crop_padding=4)}, 2 * 60),
    ],
)
def test_the_network_is_given_no_image_twice_that_can_be_kept(options: dict, num_images: int):
    backbone = network()
    sizes = images_through(backbone)
    evaluator = semi(**{"augment": Augment(horizontal_flip=True), **options})
    evaluator.evaluate(backbone, DATA, context())
    num_fits = sum(evaluator.subset_counts.values())
    overhead = 1 + 1 + num_fits  # to learn the shapes for the heads and the bytes of the features
    assert sum(sizes) == overhead + num_images + 15


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_figures_do_not_depend_on_what_is_kept(head: str, monkeypatch: pytest.MonkeyPatch):
    options = {"augment": Augment(horizontal_flip=True), "layers": ("stem", "body"), "epochs": 4, "head": head}
    found = []
    for budget in (frozen_trunk.BUDGET, 0):
        monkeypatch.setattr(frozen_trunk, "BUDGET", budget)
        found.append(semi(**options).evaluate(network(), DATA, context()).metrics)
    assert found[0] == found[1]


# ----------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels_per_class": ()}, r"labels_per_class: must be distinct positive numbers; found \[\]; allowed: for example \[20, 100\]"),
        ({"labels_per_class": (4, 0)}, r"labels_per_class: must be distinct positive numbers; found \[4, 0\]"),
        ({"labels_per_class": (4, 1, 4)}, r"labels_per_class: must be distinct positive numbers; found \[4, 1, 4\]"),
        ({"num_subsets": 0}, r"num_subsets: must be positive; found 0; allowed: 1 or more"),
        (
            {"num_subsets": (1, 1, 1), "selection": "random"},
            r"num_subsets: does not fit labels_per_class; found \[1, 1, 1\]; allowed: one number, or 2, one for each of labels_per_class",
        ),
        ({"num_subsets": (2, 0), "selection": "random"}, r"num_subsets: must be positive; found \(2, 0\)"),
        ({"num_subsets": 2}, r'num_subsets: needs random selection; found 2; set selection = "random"'),
        (
            {"freeze": False, "layers": ("stem", "body")},
            r"layers: must be one layer when the backbone is trained; found \['stem', 'body'\]",
        ),
        ({"freeze": False, "layers": ()}, r"layers: must be one layer when the backbone is trained; found \[\]"),
        ({"images_per_epoch": 7}, r"images_per_epoch: is smaller than a batch; found 7; allowed: 8 or more"),
        ({"batch_size": 0}, r"batch_size: must be positive; found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(OptionError, match=f"^{message}"):
        semi(**options)


def test_what_does_not_fit_the_data_or_the_network_is_refused():
    backbone = network()
    semi(labels_per_class=(10,), layers=("stem", "body"), images_per_epoch=30).check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^labels_per_class: more than the smallest class has; found 11; allowed: at most 10$"):
        semi(labels_per_class=(1, 11)).check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^layers: layer does not exist in this backbone; found 'conv2'"):
        semi(layers=("conv2",)).check(backbone, DATA)
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data \(30 images\)"):
        semi(batch_size=31).check(backbone, DATA)


def test_the_smallest_class_decides():
    data = relabeled([0] * 20 + [1] * 8 + [2] * 2)
    semi(labels_per_class=(2,)).check(network(), data)
    with pytest.raises(OptionError, match=r"found 3; allowed: at most 2$"):
        semi(labels_per_class=(3,)).check(network(), data)


def test_data_without_labels_is_refused():
    with pytest.raises(DataError, match=r"^the training images have no labels$"):
        semi().check(network(), LabeledData(arrays().load("pretrain"), DATA.test))
