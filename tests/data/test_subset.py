"""A part of a dataset: some classes, at most so many images."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sslkit import DataError, OptionError
from sslkit.data.arrays import Arrays
from sslkit.data.cache import OpenedDataset
from sslkit.data.file_set import FileSet
from sslkit.data.image_folder import ImageFolder
from sslkit.data.subset import Subset
from tests.data.folders import in_classes, make
from tests.recipes import refusal

LABELS = torch.tensor([0, 1, 2, 2, 2, 2, 1, 2, 2, 0, 2, 2])  # 2, 2 and 8
PIXELS = torch.arange(12, dtype=torch.uint8)[:, None, None].expand(-1, 4, 4)  # each image is its number


def whole(labels: torch.Tensor | None = LABELS) -> Arrays:
    held_out = None if labels is None else LABELS[:6]
    classes = () if labels is None else ("cat", "dog", "Eel")
    return Arrays(train_images=PIXELS, train_labels=labels, test_images=PIXELS[:6] + 100, test_labels=held_out, classes=classes)


def numbers(data: Subset, split: str) -> list[int]:
    images = OpenedDataset(data).load(split)  # type: ignore[arg-type]
    assert images is not None
    assert images.pixels is not None
    return images.pixels[:, 0, 0, 0].tolist()


def notes(data: Subset, *splits: str) -> list[str]:
    opened = OpenedDataset(data)
    for split in splits:
        opened.load(split)  # type: ignore[arg-type]
    return opened.new_notes()


@pytest.mark.parametrize("classes", [("dog", "eel"), (2, 1), ("EEL", 1)])
def test_classes_are_chosen_by_name_or_number_and_numbered_anew(classes: tuple[str | int, ...]):
    data = Subset(source=whole(), classes=classes)
    train = OpenedDataset(data).labeled().train
    expected = [index for index in range(12) if LABELS[index] != 0]
    assert numbers(data, "train") == numbers(data, "pretrain") == expected
    assert numbers(data, "test") == [100 + index for index in range(6) if LABELS[index] != 0]
    assert train.classes == ("dog", "Eel")
    assert train.labels is not None
    assert train.labels.tolist() == [int(LABELS[index]) - 1 for index in expected]
    assert notes(data, "train") == ["classes: 10 of 12 train images, those of dog, Eel"]
    assert train.fingerprint == Subset(source=whole(), classes=("dog", "Eel")).load("train").fingerprint  # type: ignore[union-attr]


@pytest.mark.parametrize(("room", "counts"), [(3, [1, 1, 1]), (5, None), (6, [2, 2, 2]), (9, [2, 2, 5]), (12, [2, 2, 8]), (99, [2, 2, 8])])
def test_images_are_drawn_as_evenly_as_the_classes_allow(room: int, counts: list[int] | None):
    for seed in range(5):
        images = Subset(source=whole(), max_images=room, seed=seed).load("train")
        assert images is not None
        assert images.labels is not None
        found = images.labels.bincount(minlength=3).tolist()
        assert sum(found) == min(room, 12)
        assert found == counts or (counts is None and max(found) - min(found) == 1)
        assert numbers(Subset(source=whole(), max_images=room, seed=seed), "train") == sorted(images.pixels[:, 0, 0, 0].tolist())  # type: ignore[index]


def test_a_draw_depends_on_the_seed_alone_and_a_smaller_one_is_part_of_a_larger_one():
    drawn = {seed: [numbers(Subset(source=whole(), max_images=room, seed=seed), "train") for room in range(3, 13)] for seed in range(5)}
    assert drawn[1] == [numbers(Subset(source=whole(), max_images=room, seed=1), "train") for room in range(3, 13)]
    assert len({str(draws) for draws in drawn.values()}) > 3
    assert all(set(less) < set(more) for draws in drawn.values() for less, more in pairwise(draws))
    fingerprints = {Subset(source=whole(), max_images=6, seed=seed).load("train").fingerprint for seed in drawn}  # type: ignore[union-attr]
    assert len(fingerprints) == len({str(draws[3]) for draws in drawn.values()})


def test_images_without_labels_are_drawn_uniformly():
    unlabelled = [numbers(Subset(source=whole(None), max_images=6, seed=seed), "pretrain") for seed in range(40)]
    counts = torch.tensor(unlabelled).flatten().bincount(minlength=12)
    assert counts.min() > 8, "each image is one of 6 of 12 in about half of 40 draws"
    labelled = [numbers(Subset(source=whole(), max_images=6, seed=seed), "pretrain") for seed in range(5)]
    assert labelled == unlabelled[:5], "labels must not decide what is pretrained on"
    assert numbers(Subset(source=whole(), max_images=1), "pretrain"), "fewer than there are classes"
    said = notes(Subset(source=whole(), max_images=9), "pretrain", "train", "test")
    assert said == [
        "max_images: 9 of 12 pretrain images",
        "max_images: 9 of 12 train images",
        "max_images: 6 of 6 test images: there are no more",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("cat", "dig")}, "classes: no such class; found 'dig'; allowed: cat, dog, Eel; did you mean 'dog'?"),
        ({"classes": (3,)}, "classes: no such class; found 3; allowed: 0 to 2"),
        ({"classes": (-1,)}, "classes: no such class; found -1; allowed: 0 to 2"),
        ({"classes": ("cat", 0)}, "classes: names a class twice; found 0"),
        ({"max_images": 2}, "max_images: are fewer than the classes of the train images; found 2; allowed: 3 or more; or choose classes"),
    ],
)
def test_what_there_is_not_is_refused(options: dict, message: str):
    assert refusal(OptionError, Subset(source=whole(), **options).load, "train") == message
    assert (Subset(source=whole(), classes=("cat", "dog"), max_images=2).load("train") or whole()).classes == ("cat", "dog")


def test_an_empty_choice_is_refused_at_once():
    assert refusal(OptionError, Subset, source=whole(), classes=()) == "classes: is empty; name classes, or leave it out"
    assert refusal(OptionError, Subset, source=whole(), max_images=0) == "max_images: must be positive; found 0; allowed: 1 or more"


def test_classes_need_labels_somewhere():
    message = refusal(DataError, Subset(source=whole(None), classes=(0,)).load, "pretrain")
    assert message == "classes: the training images have no labels; leave classes out"


def test_files_stay_files_and_are_read_once(tmp_path: Path):
    make(tmp_path, *in_classes("train", "ant", "bee", "cow", num=4), *in_classes("test", "ant", "bee", "cow", num=2))
    data = OpenedDataset(Subset(source=ImageFolder(root=str(tmp_path), image_size=4), classes=("cow", "ant"), max_images=4))
    pretrain, train = data.load("pretrain"), data.load("train")
    assert pretrain is not None
    assert train is not None
    assert isinstance(train.source, FileSet)
    assert sorted({file.path.split("/")[-2] for file in train.source.files}) == ["ant", "cow"]
    assert data.labeled().train.classes == ("ant", "cow")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert pretrain.labels is None
    assert len(pretrain) == 4
    everything = OpenedDataset(Subset(source=ImageFolder(root=str(tmp_path), image_size=4), classes=("cow", "ant")))
    first, second = everything.load("pretrain"), everything.load("train")
    assert first is not None
    assert second is not None
    assert first.pixels is second.pixels, "the same files are decoded once"


def test_other_images_for_pretraining_are_all_kept_and_a_note_says_so():
    source = whole()
    extra = Arrays(train_images=PIXELS + 50)
    patched = Subset(source=source, classes=(0,))
    with pytest.MonkeyPatch.context() as patch:
        load = Arrays.load
        patch.setattr(Arrays, "load", lambda self, split: load(extra if split == "pretrain" and self is source else self, split))
        assert numbers(patched, "pretrain") == [50 + number for number in range(12)]
        assert notes(patched, "pretrain") == ["classes: the pretrain images have no labels, so that all 12 are kept"]
