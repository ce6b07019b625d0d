"""Which subfolders of a folder of images are its splits and its classes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sslkit.data.image_files import SUFFIXES, FolderScan
from sslkit.errors import DataError


class Layout(NamedTuple):
    """Which folder holds which split; the same folder may hold two.

    Attributes:
        pretrain: images to pretrain on.
        train: training images, or None.
        test: test images, or None.
        classes: the classes in ``train``; empty without labels.
    """

    pretrain: Path
    train: Path | None
    test: Path | None
    classes: tuple[str, ...]

    @property
    def held_out_from(self) -> Path:
        """Whose images a part of is held out, where there is no test split."""
        return self.train or self.pretrain


def find_layout(root: Path, scan: FolderScan) -> Layout:
    """Find the splits and classes in a folder; :class:`~sslkit.data.image_folder.ImageFolder` has the rules.

    Raises:
        DataError: there is no such folder, or it has a test split but nothing to train on.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - a name too long for a folder is none, where Path raises
        raise DataError(f"{root} is not a folder", fix="set root in [data] to the folder of the images")
    train, unlabeled, *tests = (root / name if (root / name).is_dir() else None for name in ("train", "unlabeled", "test", "val"))
    tests = [folder for folder in tests if folder is not None]
    if pretrain := unlabeled or train:
        classes = scan.classes(train) if train else ()
        return Layout(pretrain, train, _choose_test(tests, classes, scan), classes)
    if tests:
        raise DataError(f"{root} has a folder {tests[0].name!r}, but no 'train'", fix="name the training images' folder 'train'")
    return Layout(root, root, None, scan.classes(root))


def check_images(folder: Path, scan: FolderScan) -> None:
    """Refuse a folder without images.

    Raises:
        DataError: says what counts as one.
    """
    if not scan.images(folder):
        raise DataError(f"{folder} holds no images", allowed=f"files that end in {', '.join(SUFFIXES)}, at any depth")


def check_labels(layout: Layout, scan: FolderScan) -> None:
    """Refuse training images whose folders nearly are classes: whoever made them meant labels.

    Raises:
        DataError: there are no images, there is one class folder only, or images lie beside class folders.
    """
    if layout.classes or layout.train is None:
        return
    check_images(layout.train, scan)
    names = scan.subfolders(layout.train)
    if len(names) == 1 and names[0]:
        fix = "an evaluation needs two classes or more, each in a folder of its own"
        raise DataError(f"{layout.train} has one class folder only: {names[0]}", fix=fix)
    if len(names) > 1:
        stray = next(file.path for file in scan.images(layout.train) if "/" not in file.path)
        raise DataError(f"{layout.train / stray} lies beside folders of images, so that these are no classes", fix="move it into one")


def check_same_classes(layout: Layout, scan: FolderScan) -> None:
    """Refuse a test split with other classes than the training split has.

    Raises:
        DataError: names the classes that only one of them has.
    """
    assert layout.test is not None
    found = {*scan.subfolders(layout.test)} - {""}
    if scan.classes(layout.test) == layout.classes:
        return
    missing, unknown = (", ".join(sorted(names)) for names in ({*layout.classes} - found, found - {*layout.classes}))
    problems = [f"{text}: {names}" for text, names in (("without images there", missing), ("only there", unknown)) if names]
    raise DataError(
        f"{layout.test} has other classes than {layout.train}",
        found="; ".join(problems) or "images beside the class folders",
        fix="give both the same class folders",
    )


def _choose_test(tests: Sequence[Path], classes: tuple[str, ...], scan: FolderScan) -> Path | None:
    """ImageNet's ``test`` comes without labels, its ``val`` with them."""
    labeled = [folder for folder in tests if scan.classes(folder)] if classes and len(tests) > 1 else []
    return next(iter([*labeled, *tests]), None)
