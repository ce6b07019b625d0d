import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sslkit.contract.errors import DataError, OptionError
from sslkit.data import file_set
from sslkit.data.cache import OpenedDataset, class_counts
from sslkit.data.file_set import FileSet
from sslkit.data.image_folder import ImageFolder
from tests.data.folders import in_classes, make
from tests.data.other_user import as_nobody, shared_folder


def load(root: Path, split, **options) -> FileSet:
    return ImageFolder(root=str(root), image_size=4, **options).load(split)


def reds(images: FileSet) -> list[int]:
    """The numbers in the names of the files, in order."""
    return images.read(range(len(images)))[:, 0, 0, 0].tolist()


def labels(images: FileSet) -> list[int]:
    assert images.labels.dtype == torch.int64
    return images.labels.tolist()


def names(root: Path, split, **options) -> set[str]:
    images = load(root, split, **options)
    return {path for path, _ in images.files}


def test_train_and_test_folders_with_classes(tmp_path):
    make(tmp_path, "train/dog/1.png", "train/dog/more/2.png", "train/cat/3.png", "test/cat/4.png", "test/dog/5.png", "other/6.png")
    train, test, pretrain = (load(tmp_path, split) for split in ("train", "test", "pretrain"))
    assert (train.classes, reds(train), labels(train)) == (("cat", "dog"), [3, 1, 2], [0, 1, 1])
    assert (test.classes, reds(test), labels(test)) == (("cat", "dog"), [4, 5], [0, 1])
    assert (pretrain.classes, reds(pretrain), pretrain.labels) == ((), [3, 1, 2], None)


def test_class_folders_alone_are_the_training_split(tmp_path):
    make(tmp_path, "dog/1.png", "cat/2.png", "cat/3.png")
    train = load(tmp_path, "train")
    assert (train.classes, reds(train), labels(train)) == (("cat", "dog"), [2, 3, 1], [0, 0, 1])
    assert reds(load(tmp_path, "pretrain")) == [2, 3, 1]
    assert ImageFolder(root=str(tmp_path)).load("test") is None


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("1.png", "2.png"), ""),
        (("1.png", "deep/er/2.png"), "{0}/1.png is beside folders of images, so these are not classes; move it into one"),
        (("images/1.png", "images/2.png"), "{0} has one class folder only: images; an evaluation needs two classes or more, each in a"),
        (("1.png", "a/2.png", "b/3.png"), "{0}/1.png is beside folders of images, so these are not classes; move it into one"),
    ],
    ids=["flat", "nested", "one folder", "images beside folders"],
)
@pytest.mark.parametrize("place", ["", "train", "unlabeled"])
def test_without_classes_there_is_only_pretraining(tmp_path, paths, message, place):
    make(tmp_path / place, *paths)
    data = ImageFolder(root=str(tmp_path))
    assert reds(load(tmp_path, "pretrain")) == [1, 2, 3][: len(paths)]
    assert data.load("test") is None
    if message and place != "unlabeled":
        with pytest.raises(DataError, match="^" + re.escape(message.format(tmp_path / place))):
            data.load("train")
    else:
        assert data.load("train") is None


TRAIN = ["train/cat/3.png", "train/dog/4.png"]


@pytest.mark.parametrize(
    ("paths", "pretrain", "test"),
    [
        (["unlabeled/a/1.png", "unlabeled/b/2.png", "test/cat/5.png", "test/dog/6.png"], [1, 2], [5, 6]),
        (["val/cat/5.png", "val/dog/6.png"], [3, 4], [5, 6]),
        (["val/cat/5.png", "val/dog/6.png", "test/cat/7.png", "test/dog/8.png"], [3, 4], [7, 8]),
        (["val/cat/5.png", "val/dog/6.png", "test/7.png"], [3, 4], [5, 6]),
    ],
    ids=["unlabeled is for pretraining alone", "val stands in for test", "test before val", "val where test has no labels"],
)
def test_the_images_of_each_split(tmp_path, paths, pretrain, test):
    make(tmp_path, *TRAIN, *paths)
    assert [reds(load(tmp_path, split)) for split in ("pretrain", "train", "test")] == [pretrain, [3, 4], test]


def test_a_test_split_without_labels_measures_the_pretext_task(tmp_path):
    make(tmp_path, "train/1.png", "test/2.png")
    test = load(tmp_path, "test")
    assert (reds(test), test.labels, test.classes) == ([2], None, ())


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["test/cat/3.png", "test/eel/4.png"], "test images belong to classes without training images: eel; allowed: cat, dog; give both"),
        (["test/3.png"], "the test images in {0}/test have no labels, because it has no class folders; classes: cat, dog"),
        (["test/im/3.png"], "the test images in {0}/test have no labels, because it has folders of other classes: im; classes: cat, dog"),
        (["test/cat/3.png", "test/dog/4.png", "test/5.png"], "{0}/test/5.png is beside folders of images, so these are not classes"),
        (["test/dog/.hidden.png"], "{0}/test holds no images"),
    ],
    ids=["other class", "flat", "other folder", "stray image", "empty"],
)
def test_test_images_without_fitting_labels_are_for_pretraining_only(tmp_path, paths, message):
    make(tmp_path, "train/cat/1.png", "train/dog/2.png", *paths)
    data = OpenedDataset(ImageFolder(root=str(tmp_path), image_size=4))
    heldout = data.load("test")
    assert (0 if heldout is None else len(heldout)) == len([path for path in paths if ".hidden" not in path])
    with pytest.raises(DataError, match="^" + re.escape(message.format(tmp_path))):
        data.labeled()


@pytest.mark.parametrize("name", ["val", "valid", "test"])
def test_a_part_can_be_held_out_where_a_test_split_has_no_labels(tmp_path, name):
    """Competitions hand out test images without labels."""
    make(tmp_path, *in_classes("train", "cat", "dog", num=4), f"{name}/9.png")
    data = OpenedDataset(ImageFolder(root=str(tmp_path), image_size=4, val_fraction=0.5))
    train, test = data.labeled()
    assert len(train) + len(test) == 8
    assert data.new_notes() == [f"folders of images that are in no split: {tmp_path / name}"]
    with pytest.raises(OptionError, match="val_fraction: there is a test split already"):
        load(tmp_path, "test", val_fraction=0.5, test=name)


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (["cat/1.png", "val/cat/3.png"], {}, "{0} has a folder 'val', but none for training; allowed: train, training; set train"),
        (None, {}, "{0} is not a folder; set root in [data] to the folder of the images"),
        ([], {}, "{0} holds no images; allowed: files that end in .bmp"),
        (
            ["train/note.txt"],
            {},
            "{0}/train holds no images; allowed: files that end in .bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .png, .tif, .tiff, .webp, at any depth",
        ),
        (["unlabeled/.hidden.png"], {}, "{0}/unlabeled holds no images; allowed: files that end in .bmp"),
        (["train/1.png", "test/2.png"], {"val_fraction": 0.5}, "val_fraction: there is a test split already, {0}/test; found 0.5"),
        (["1.jpg"], {"on_error": "skip"}, "{0}: none of the 1 images can be decoded"),
    ],
    ids=["test alone", "no folder", "empty", "no images", "hidden images", "nothing to hold out", "bad files alone"],
)
def test_folders_without_what_is_needed_are_refused(tmp_path, paths, options, message):
    root = tmp_path / "images"
    for path in paths or ():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    if paths == []:
        root.mkdir()
    with pytest.raises((DataError, OptionError), match="^" + re.escape(message.format(root))):
        load(root, "pretrain", **options)


def test_a_part_is_held_out_of_every_split(tmp_path):
    make(tmp_path, *in_classes("", "cat", "dog", num=100))
    held_out = names(tmp_path, "test", val_fraction=0.25)
    assert 25 <= len(held_out) <= 75
    assert names(tmp_path, "train", val_fraction=0.25) == names(tmp_path, "pretrain", val_fraction=0.25)
    assert names(tmp_path, "train", val_fraction=0.25) ^ held_out == names(tmp_path, "train")
    test = load(tmp_path, "test", val_fraction=0.25)
    assert test.classes == ("cat", "dog")
    assert labels(test) == [0 if path.startswith("cat") else 1 for path, _ in test.files]
    assert names(tmp_path, "test", val_fraction=0.1) < held_out


def test_what_is_held_out_stays_when_files_are_added_or_moved_as_a_whole(tmp_path):
    numbers = range(60)
    make(tmp_path / "one", *(f"{number}.png" for number in numbers))
    before = names(tmp_path / "one", "test", val_fraction=0.3)
    make(tmp_path / "one", *(f"new{number}.png" for number in numbers))
    after = names(tmp_path / "one", "test", val_fraction=0.3)
    assert before == {name for name in after if not name.startswith("new")}
    assert after - before
    (tmp_path / "two").mkdir()
    (tmp_path / "one").rename(tmp_path / "two" / "train")
    assert names(tmp_path / "two", "test", val_fraction=0.3) == after


def test_a_part_of_the_training_split_is_held_out_beside_unlabeled_images(tmp_path):
    make(tmp_path, *in_classes("train", "cat", "dog", num=30), *in_classes("", "unlabeled", num=30))
    assert names(tmp_path, "test", val_fraction=0.5) ^ names(tmp_path, "train", val_fraction=0.5) == names(tmp_path, "train")
    assert len(names(tmp_path, "pretrain", val_fraction=0.5)) == 30


def test_every_class_keeps_images_and_gives_some_away(tmp_path):
    """A long tail, as nature has it: 20, 3, 2 images and one."""
    sizes = {"a": 20, "b": 3, "c": 2, "d": 1}
    make(tmp_path, *(f"{name}/{number}.png" for name, size in sizes.items() for number in range(size)))
    for fraction in (0.01, 0.1, 0.5, 0.99):
        data = OpenedDataset(ImageFolder(root=str(tmp_path), image_size=4, val_fraction=fraction))
        train, test = data.labeled()
        kept, given = class_counts(train), class_counts(test)
        assert [one + other for one, other in zip(kept, given, strict=True)] == list(sizes.values())
        assert [one > 0 for one in kept] == [True, True, True, True]
        assert [one > 0 for one in given] == [True, True, True, False]
        assert data.new_notes() == ["1 of 4 classes have no test images, so that nothing measures them: d"]
        assert names(tmp_path, "pretrain", val_fraction=fraction) == names(tmp_path, "train", val_fraction=fraction)


def test_images_without_classes_are_held_out_as_one_and_a_single_image_is_not(tmp_path):
    make(tmp_path, "1.png")
    with pytest.raises(OptionError, match=r"val_fraction: holds out none of the 1 images in .*; found 0\.5"):
        load(tmp_path, "test", val_fraction=0.5)
    assert len(load(tmp_path, "pretrain", val_fraction=0.5)) == 1
    make(tmp_path, "2.png")
    for fraction in (0.001, 0.999):
        assert [len(load(tmp_path, split, val_fraction=fraction)) for split in ("pretrain", "test")] == [1, 1]


def test_a_bad_file_stops_by_default_when_it_is_read(tmp_path):
    make(tmp_path, "1.png")
    (tmp_path / "2.jpg").write_bytes(b"")
    images = load(tmp_path, "pretrain")
    assert (len(images), images.skipped) == (2, ())
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / '2.jpg'} cannot be decoded") + '.*set on_error = "skip"'):
        images.read([0, 1])


def test_bad_files_are_skipped_on_request(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "train/dog/4.png")
    (tmp_path / "train/cat/1.png").write_bytes(b"")
    (tmp_path / "train/dog/4.png").write_bytes((tmp_path / "train/dog/4.png").read_bytes()[:50])
    before = load(tmp_path, "train").fingerprint
    images = load(tmp_path, "train", on_error="skip")
    assert images.skipped == ("cat/1.png", "dog/4.png")
    assert (reds(images), labels(images), images.classes) == ([2, 3], [0, 1], ("cat", "dog"))
    assert images.fingerprint != before


def test_folders_are_scanned_and_files_checked_once_for_all_splits(tmp_path, monkeypatch):
    make(tmp_path, *in_classes("", "cat", "dog", num=10))
    scanned, decoded = [], []
    scandir, decode = os.scandir, file_set.decode
    monkeypatch.setattr(os, "scandir", lambda folder: scanned.append(folder) or scandir(folder))
    monkeypatch.setattr(file_set, "decode", lambda path, *args, **kwargs: decoded.append(path) or decode(path, *args, **kwargs))
    data = ImageFolder(root=str(tmp_path), image_size=4, val_fraction=0.5, on_error="skip")
    for split in ("pretrain", "train", "test", "train"):
        assert data.load(split) is not None
    assert sorted(scanned) == sorted(map(str, (tmp_path, tmp_path, tmp_path / "cat", tmp_path / "dog"))), "the root also for its splits"
    assert len(decoded) == len(set(decoded)) == 20


def test_skipped_files_are_those_of_the_split_and_held_out_are_good_ones(tmp_path):
    make(tmp_path, *in_classes("", "cat", "dog", num=10))
    bad = {f"cat/{number}.png" for number in range(8)}
    for path in bad:
        (tmp_path / path).write_bytes(b"")
    train, test = OpenedDataset(ImageFolder(root=str(tmp_path), image_size=4, val_fraction=0.5, on_error="skip")).labeled()
    assert sorted(train.skipped + test.skipped) == sorted(bad)
    assert (class_counts(train)[0], class_counts(test)[0]) == (1, 1)


def test_a_class_that_loses_all_its_images_is_refused_in_training_and_noted_in_the_test_split(tmp_path):
    make(tmp_path, *in_classes("train", "cat", "dog"), *in_classes("test", "cat", "dog"))
    for number in range(2):
        (tmp_path / f"test/dog/{number}.png").write_bytes(b"")
    opened = OpenedDataset(ImageFolder(root=str(tmp_path), image_size=4, on_error="skip"))
    assert class_counts(opened.labeled().test) == [2, 0]
    assert opened.new_notes() == ["1 of 2 classes have no test images, so that nothing measures them: dog"]
    for number in range(2):
        (tmp_path / f"train/dog/{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/train/dog: none of its images can be decoded; on_error")):
        load(tmp_path, "train", on_error="skip")
    assert len(load(tmp_path, "pretrain", on_error="skip")) == 2


def test_what_is_no_file_stops_or_is_skipped(tmp_path):
    make(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("3.png")
    (tmp_path / "4.png").symlink_to("/dev/zero")
    (tmp_path / "5.png").mkdir()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / '2.png'} is a named pipe, not a file")):
        load(tmp_path, "pretrain").read([1])
    images = load(tmp_path, "pretrain", on_error="skip")
    assert (reds(images), images.skipped) == ([1], ("2.png", "3.png", "4.png"))


def test_files_that_may_not_be_read_stop_or_are_skipped():
    with shared_folder() as folder:
        make(folder, "1.png", "2.png")
        load(folder, "pretrain", on_error="skip").read([0])  # imports what the other user perhaps may not
        (folder / "2.png").chmod(0)
        stopped = as_nobody(lambda: load(folder, "pretrain").read([0, 1]))
        skipped = as_nobody(lambda: load(folder, "pretrain", on_error="skip").skipped)
    assert stopped.startswith(f"DataError: {folder}/2.png cannot be read (Permission denied); make it readable, delete it, or set on_error")
    assert skipped == "('2.png',)"


def test_too_many_pixels_are_refused_before_anything_is_decoded(tmp_path):
    make(tmp_path, "1.png")
    images = load(tmp_path, "pretrain", max_pixels=15)
    with pytest.raises(DataError, match=r"1\.png is too large; found '4 x 4: 16 pixels'; allowed: 15 pixels, max_pixels in \[data\]"):
        images.read([0])


def test_image_needs_no_files():
    data = ImageFolder(root="nowhere")
    assert data.image() == (224, 224, "rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert data.available()
    assert ImageFolder(root="nowhere", color="gray", image_size=32).image() == (32, 32, "gray", (0.459,), (0.226,))
    assert ImageFolder(root="nowhere", mean=(0.1, 0.2, 0.3)).image().mean == (0.1, 0.2, 0.3)


def test_gray_images(tmp_path):
    make(tmp_path, "200.png")
    assert load(tmp_path, "pretrain", color="gray").read([0]).flatten().tolist() == [round(200 * 0.299)] * 16


def test_root_may_start_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make(tmp_path / "images", "7.png")
    images = ImageFolder(root="~/images", image_size=4).load("pretrain")
    assert reds(images) == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": ""}, "root: must be a folder; found ''"),
        ({"image_size": 0}, "image_size: must be positive; found 0; allowed: 1 pixel or more"),
        ({"color": "lightness"}, "color: must be 'rgb' or 'gray' or 'bands'; found 'lightness'"),
        ({"val_fraction": 1.0}, "val_fraction: must be a part of the images; found 1.0; allowed: 0 <= val_fraction < 1"),
        ({"val_fraction": -0.1}, "val_fraction: must be a part of the images; found -0.1"),
        ({"on_error": "ignore"}, "on_error: must be 'stop' or 'skip'; found 'ignore'"),
        ({"max_pixels": 0}, "max_pixels: must be positive; found 0; allowed: 1 pixel or more"),
        ({"mean": (0.5,)}, "mean: does not fit the images; found (0.5,); allowed: 3 values in [0, 1]"),
        ({"std": (0.5, 0.5, 0.0)}, "std: does not fit the images; found (0.5, 0.5, 0.0); allowed: 3 values in (0, 1]"),
        ({"color": "gray", "mean": (0.5, 0.5, 0.5)}, "mean: does not fit the images; found (0.5, 0.5, 0.5); allowed: 1 values in [0, 1]"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        ImageFolder(**{"root": "images", **options})


@pytest.mark.slow
def test_cifar10_as_files(cifar10_folder):
    data = ImageFolder(root=str(cifar10_folder), image_size=32)
    train, test = data.load("train"), data.load("test")
    assert torch.equal(torch.tensor(labels(train)).bincount(), torch.full((10,), 5000))
    assert torch.equal(torch.tensor(labels(test)).bincount(), torch.full((10,), 1000))
    assert train.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    path = sorted((cifar10_folder / "test" / "cat").iterdir())[5]
    with Image.open(path) as image:
        expected = np.array(image.convert("RGB"))
    assert np.array_equal(test.read([3005])[0].permute(1, 2, 0).numpy(), expected)
