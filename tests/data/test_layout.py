"""Which folders are taken for splits, which for classes, and what is refused because it may be either."""

import re
import unicodedata
from pathlib import Path

import pytest

from sslkit.contract.errors import DataError, OptionError
from sslkit.data.cache import OpenedDataset, class_counts
from sslkit.data.image_folder import ImageFolder
from tests.data.folders import in_classes, make


def opened(root: Path, **options) -> OpenedDataset:
    return OpenedDataset(ImageFolder(root=str(root), image_size=4, **options))


def sizes(data: OpenedDataset) -> dict[str, int]:
    return {split: len(images) for split in ("pretrain", "train", "test") if (images := data.load(split)) is not None}


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("test", ["test", "Testing", "val", "Valid", "validation", "DEV"])
def test_splits_are_known_by_their_usual_names_in_any_case(tmp_path, train, test):
    make(tmp_path, *in_classes(train, "cat", "dog"), *in_classes(test, "cat", "dog", num=1), "Unlabelled/1.png")
    assert sizes(opened(tmp_path)) == {"pretrain": 1, "train": 4, "test": 2}


def test_a_class_may_be_called_like_a_split(tmp_path):
    """120 images of which 40 would be used."""
    make(tmp_path, "bus/1.png", "car/2.png", "train/3.png", "train/4.png")
    message = (
        f"{tmp_path}: train is either a split or a class, because there are images beside it in bus, car; "
        'set train = "train" to use that folder alone, or train = "." if every folder is a class'
    )
    with pytest.raises(DataError, match="^" + re.escape(message)):
        opened(tmp_path).load("pretrain")
    everything = opened(tmp_path, train=".")
    assert sizes(everything) == {"pretrain": 4, "train": 4}
    train = everything.load("train")
    assert (train.classes, class_counts(train)) == (("bus", "car", "train"), [1, 1, 2])
    alone = opened(tmp_path, train="train")
    assert len(alone.load("pretrain") or ()) == 2
    assert alone.new_notes() == [f"folders of images that are in no split: {tmp_path / 'bus'}, {tmp_path / 'car'}"]


def test_a_class_may_be_called_test(tmp_path):
    make(tmp_path, "bus/1.png", "test/2.png")
    with pytest.raises(DataError, match=re.escape("""set train to the folder of the training images, or to "." if 'test' is a class""")):
        opened(tmp_path).load("pretrain")
    assert sizes(opened(tmp_path, train=".")) == {"pretrain": 2, "train": 2}


@pytest.mark.parametrize(
    ("train", "test"), [("training_set", "test_set"), ("train2017", "val2017"), ("seg_train", "seg_test"), ("Train-Images", "Dev images")]
)
def test_names_that_hint_at_splits_are_not_taken_for_classes(tmp_path, train, test):
    make(tmp_path, *in_classes(train, "cat", "dog"), *in_classes(test, "cat", "dog"))
    with pytest.raises(DataError, match=re.escape(f'set train = "{train}", test = "{test}" if they are splits, or train = "." if')):
        opened(tmp_path).load("pretrain")
    assert sizes(opened(tmp_path, train=train, test=test)) == {"pretrain": 4, "train": 4, "test": 4}
    assert sizes(opened(tmp_path, train=".")) == {"pretrain": 8, "train": 8}


def test_a_single_hint_is_a_class(tmp_path):
    make(tmp_path, *in_classes("", "test_drive", "race"))
    assert sizes(opened(tmp_path)) == {"pretrain": 4, "train": 4}


@pytest.mark.parametrize("between", ["data", "data/more", "cat"])
def test_a_root_too_high_would_pretrain_on_test_images(tmp_path, between):
    make(tmp_path, *in_classes(f"{between}/train", "cat", "dog"), *in_classes(f"{between}/test", "cat", "dog"), "other/1.png")
    with pytest.raises(DataError, match="^" + re.escape(f"{tmp_path / between} holds splits: test, train; set root to it, or train")):
        opened(tmp_path).load("pretrain")
    assert sizes(opened(tmp_path / between)) == {"pretrain": 4, "train": 4, "test": 4}
    assert sizes(opened(tmp_path, train="."))["pretrain"] == 9


def test_two_folders_of_one_split_are_refused_unless_one_is_empty_or_named(tmp_path):
    make(tmp_path, "train/1.png", "val/2.png", "valid/3.png", "valid/4.png")
    with pytest.raises(DataError, match=re.escape('has 2 folders of val images: val, valid; set test = "val" or test = "valid"')):
        opened(tmp_path).load("pretrain")
    data = opened(tmp_path, test="valid")
    assert sizes(data) == {"pretrain": 1, "test": 2}
    assert data.new_notes() == [f"folders of images that are in no split: {tmp_path / 'val'}"]
    (tmp_path / "valid/3.png").unlink()
    (tmp_path / "valid/4.png").unlink()
    assert sizes(opened(tmp_path)) == {"pretrain": 1, "test": 1}


def test_an_empty_test_split_gives_way(tmp_path):
    make(tmp_path, *in_classes("train", "cat", "dog"), *in_classes("val", "cat", "dog"))
    (tmp_path / "test").mkdir()
    assert sizes(opened(tmp_path))["test"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "trian"}, "train: is not a folder in {0}; found 'trian'; allowed: test, train; did you mean 'train'?"),
        ({"test": "train/cat"}, "test: lies in the folder of the training images; found 'train/cat'; move it out of there"),
        ({"train": ".", "test": "test"}, "test: lies in the folder of the training images; found 'test'"),
    ],
)
def test_folders_that_are_named_must_be_there_and_apart(tmp_path, options, message):
    make(tmp_path, *in_classes("train", "cat", "dog"), *in_classes("test", "cat", "dog"))
    with pytest.raises(OptionError, match="^" + re.escape(message.format(tmp_path))):
        opened(tmp_path, **options).load("pretrain")


def test_folders_beside_clear_splits_are_left_out_and_named_once(tmp_path):
    make(tmp_path, "train/1.png", "test/2.png", "extra/3.png")
    (tmp_path / "notes").mkdir()
    data = opened(tmp_path)
    assert sizes(data) == {"pretrain": 1, "test": 1}
    assert data.new_notes() == [f"folders of images that are in no split: {tmp_path / 'extra'}"]
    assert data.new_notes() == []
    assert data.describe() == {"pretrain": f"1 images, in {tmp_path / 'train'}", "test": f"1 images, in {tmp_path / 'test'}"}


def test_a_folder_that_a_named_split_lies_in_is_not_left_out(tmp_path):
    make(tmp_path, "data/train/1.png", "data/held_out/2.png", "extra/3.png")
    data = opened(tmp_path, train="data/train", test="data/held_out")
    assert sizes(data) == {"pretrain": 1, "test": 1}
    assert data.new_notes() == [f"folders of images that are in no split: {tmp_path / 'extra'}"]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [("Cat", "cat", "upper and lower case"), (COMPOSED, DECOMPOSED, "the form of Unicode"), ("ÉTÉ", "été", "upper and lower case")],
    ids=["case", "form", "accents"],
)
def test_names_of_one_class_are_refused_in_a_split_and_matched_between_splits(tmp_path, one, other, differ):
    make(tmp_path / "both", *in_classes("", one, other))
    with pytest.raises(DataError, match=f"two names for one class, which differ in {differ} alone") as raised:
        opened(tmp_path / "both").load("train")
    assert f"{min(one, other)!a} and {max(one, other)!a}; merge the two" in str(raised.value)
    make(tmp_path / "splits", *in_classes("train", one, "eel"), *in_classes("test", other, "eel"), "test/eel/9.png")
    train, test = opened(tmp_path / "splits").labeled()
    assert test.classes == train.classes == tuple(sorted((one, "eel")))
    assert class_counts(test)[test.classes.index("eel")] == 3


def test_images_of_other_types_are_counted_and_named_and_an_empty_class_folder_is_mentioned(tmp_path):
    make(tmp_path, *in_classes("train", "cat", "dog"), *in_classes("test", "cat", "dog"))
    for name in ("train/cat/a.heic", "train/dog/b.HEIC", "train/dog/c.ppm", "test/cat/d.avif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "train" / "eel").mkdir()
    data = opened(tmp_path)
    data.labeled()
    assert data.new_notes() == [
        f"{tmp_path}/train has images of types that are not read (2 .heic, 1 .ppm); the first is {tmp_path}/train/cat/a.heic",
        f"not classes, because they hold no images that are read: {tmp_path}/train/eel",
        f"{tmp_path}/test has images of types that are not read (1 .avif); the first is {tmp_path}/test/cat/d.avif",
    ]


def test_a_class_of_another_type_is_not_lost_without_a_word(tmp_path):
    make(tmp_path, *in_classes("train", "cat", "dog"))
    (tmp_path / "train/eel").mkdir()
    (tmp_path / "train/eel/1.heic").write_bytes(b"")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/train/eel holds no images that are read, but {tmp_path}/train/eel/1.heic;")):
        opened(tmp_path).load("train")
    assert len(opened(tmp_path).load("pretrain") or ()) == 4


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "gif", "tif", "tiff", "JFIF"])
def test_a_class_of_a_rarer_type_is_read(tmp_path, suffix):
    make(tmp_path, *in_classes("", "cat", "dog"))
    for number in range(2):
        source = tmp_path / f"dog/{number}.png"
        source.rename(source.with_suffix(f".{suffix}"))  # what counts is what is in it
    train = opened(tmp_path).load("train")
    assert (train.classes, class_counts(train)) == (("cat", "dog"), [2, 2])
    assert train.read(range(4)).shape == (4, 3, 4, 4)
