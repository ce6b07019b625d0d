"""A folder of image files as a data set, with class folders or without."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, final

import torch

from sslkit.data.arrays import check_statistics
from sslkit.data.file_set import FileSet, undecodable
from sslkit.data.image_files import SUFFIXES, ImageFile, find_classes, find_images
from sslkit.errors import DataError, OptionError
from sslkit.interfaces import Dataset, ImageSpec, Split

MAX_SIDE = 8192
"""Pixels: an image of this size takes 200 MB."""

IMAGENET = {  # mean and std; gray: the luma of the means, and of the deviations, for channels are nearly in step
    "rgb": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "gray": ((0.459,), (0.226,)),
}


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


@final
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """JPEG, PNG, WebP and BMP files in a folder, in one of two layouts. Other files, and hidden ones, are left alone.

    With a subfolder ``train`` or ``unlabeled``, subfolders are splits:

    - ``train`` holds the training images,
    - ``test``, else ``val``, the test images; ``val`` also if ``train`` has classes and ``test`` has none,
    - pretraining takes every image in ``unlabeled``, else in ``train``.

    Anything else beside them is ignored. Without these subfolders the folder itself is the training split, and pretraining takes
    every image in it.

    The subfolders of the training split are its classes if at least two of them hold images, at any depth, and no image lies beside
    them. Otherwise there are no labels: then ``train`` does not exist, and ``test`` only measures the pretext task. The test split
    must have the same classes as the training split.

    Attributes:
        root: the folder.
        image_size: height and width in pixels: the shorter side is resized to it, and the central square is cut out. Files that have
            this size keep their pixels.
        color: what files are converted to.
        val_fraction: without a test split, hold out about this part of the images as ``test``; pretraining does not see them either.
            Each is chosen by a hash of its path, so that the choice stays when files are added.
        on_error: what to do about a file that cannot be decoded: ``stop`` when it is read, or decode all files once at the start
            and ``skip`` the bad ones.
        mean: per channel, of values in [0, 1]; by default ImageNet's.
        std: per channel, of values in [0, 1]; by default ImageNet's.
    """

    root: str
    image_size: int = 224
    color: Literal["rgb", "gray"] = "rgb"
    val_fraction: float = 0.0
    on_error: Literal["stop", "skip"] = "stop"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.root:
            raise OptionError("root", "must be a folder", found=self.root)
        if self.image_size < 1:
            raise OptionError("image_size", "must be positive", found=self.image_size, allowed="1 pixel or more")
        if self.image_size > MAX_SIDE:
            raise OptionError("image_size", "is too large", found=self.image_size, allowed=f"at most {MAX_SIDE:,} pixels")
        if self.color not in IMAGENET:
            raise OptionError("color", "is not known", found=self.color, allowed=IMAGENET)
        if not 0 <= self.val_fraction < 1:
            raise OptionError("val_fraction", "must be a part of the images", found=self.val_fraction, allowed="0 <= val_fraction < 1")
        if self.on_error not in ("stop", "skip"):
            raise OptionError("on_error", "is not known", found=self.on_error, allowed=("stop", "skip"))
        check_statistics(len(IMAGENET[self.color][0]), self.mean, self.std)

    def image(self) -> ImageSpec:
        """Squares of ``image_size``."""
        mean, std = IMAGENET[self.color]
        return ImageSpec(self.image_size, self.image_size, self.color, self.mean or mean, self.std or std)

    def load(self, split: Split) -> FileSet | None:
        """List the files of a split; with ``on_error = "skip"`` also decode them all once.

        Returns:
            The images. None: ``train`` without classes, ``test`` without a test split and ``val_fraction``.

        Raises:
            DataError: the folder or its images are missing, or the splits do not fit together.
            OptionError: ``val_fraction`` although there is a test split.
        """
        layout = find_layout(Path(os.path.expanduser(self.root)).absolute())  # noqa: PTH111 - a user that does not exist is no error here
        if layout.test is not None and self.val_fraction:
            fix = "leave it out, or point root at the training folder itself"
            raise OptionError("val_fraction", f"there is a test split already, {layout.test}", found=self.val_fraction, fix=fix)
        folder = self._folder(layout, split)
        if folder is None:
            return None
        files = find_images(folder)
        if not files:
            raise DataError(f"{folder} holds no images", allowed=f"files that end in {', '.join(SUFFIXES)}, at any depth")
        if self.val_fraction and folder == _held_out_from(layout):
            files = self._part(files, folder, held_out=split == "test")
        return self._open(folder, files, () if split == "pretrain" else layout.classes)

    def _folder(self, layout: Layout, split: Split) -> Path | None:
        """Where the images of a split are, if it exists."""
        if split == "pretrain":
            return layout.pretrain
        if split == "train":
            return layout.train if layout.classes else None
        if layout.test is None:
            return _held_out_from(layout) if self.val_fraction else None
        if layout.classes:
            _check_same_classes(layout, find_classes(layout.test))
        return layout.test

    def _part(self, files: Sequence[ImageFile], folder: Path, *, held_out: bool) -> list[ImageFile]:
        """The files that are held out, or the others."""
        part = [file for file in files if (_unit_hash(file.path) < self.val_fraction) == held_out]
        if not part:
            problem = f"{'holds out none' if held_out else 'leaves none'} of the {len(files)} images in {folder}"
            raise OptionError("val_fraction", problem, found=self.val_fraction)
        return part

    def _open(self, folder: Path, files: Sequence[ImageFile], classes: tuple[str, ...]) -> FileSet:
        bad = undecodable(folder, files, self.image()) if self.on_error == "skip" else set()
        good = [file for file in files if file.path not in bad]
        if not good:
            raise DataError(f"{folder}: none of the {len(files)} images can be decoded", fix='on_error = "stop" says why')
        number = {name: label for label, name in enumerate(classes)}
        labels = torch.tensor([number[file.path.partition("/")[0]] for file in good]) if classes else None
        return FileSet(folder, good, self.image(), labels=labels, classes=classes, skipped=tuple(sorted(bad)))


def find_layout(root: Path) -> Layout:
    """Find the splits and classes in a folder; :class:`ImageFolder` has the rules.

    Raises:
        DataError: there is no such folder, or it has a test split but nothing to train on.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - a name too long for a folder is none, where Path raises
        raise DataError(f"{root} is not a folder", fix="set root in [data] to the folder of the images")
    train, unlabeled, *tests = (root / name if (root / name).is_dir() else None for name in ("train", "unlabeled", "test", "val"))
    tests = [folder for folder in tests if folder is not None]
    if pretrain := unlabeled or train:
        classes = find_classes(train) if train else ()
        return Layout(pretrain, train, _choose_test(tests, classes), classes)
    if tests:
        raise DataError(f"{root} has a folder {tests[0].name!r}, but no 'train'", fix="name the training images' folder 'train'")
    return Layout(root, root, None, find_classes(root))


def _choose_test(tests: Sequence[Path], classes: tuple[str, ...]) -> Path | None:
    """ImageNet's ``test`` comes without labels, its ``val`` with them."""
    labeled = [folder for folder in tests if find_classes(folder)] if classes and len(tests) > 1 else []
    return next(iter([*labeled, *tests]), None)


def _held_out_from(layout: Layout) -> Path:
    return layout.train or layout.pretrain


def _check_same_classes(layout: Layout, found: tuple[str, ...]) -> None:
    if found == layout.classes:
        return
    missing, unknown = (", ".join(sorted({*a} - {*b})) for a, b in ((layout.classes, found), (found, layout.classes)))
    problems = [f"{text}: {names}" for text, names in (("without images there", missing), ("only there", unknown)) if names]
    raise DataError(f"{layout.test} has other classes than {layout.train}", found="; ".join(problems))


def _unit_hash(path: str) -> float:
    """A path -> [0, 1), evenly, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=6).digest()) / 2**48
