"""A folder of image files as a data set, with class folders or without."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, final

import torch

from sslkit.data.arrays import check_statistics
from sslkit.data.file_set import FileSet, undecodable
from sslkit.data.image_files import FolderScan, ImageFile
from sslkit.data.image_header import MAX_PIXELS
from sslkit.data.layout import Layout, check_images, check_labels, check_same_classes, find_layout
from sslkit.errors import DataError, OptionError
from sslkit.interfaces import Dataset, ImageSpec, Split

MAX_SIDE = 8192
"""Pixels: an image of this size takes 200 MB."""

IMAGENET = {  # mean and std; gray: the luma of the means, and of the deviations, for channels are nearly in step
    "rgb": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "gray": ((0.459,), (0.226,)),
}


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

    Folders are scanned, and with ``on_error = "skip"`` their images decoded, once, when the first split is loaded that needs them:
    all splits of one object see the same files.

    Attributes:
        root: the folder.
        image_size: height and width in pixels: the shorter side is resized to it, and the central square is cut out. Files that have
            this size keep their pixels.
        color: what files are converted to.
        val_fraction: without a test split, hold out about this part of the images as ``test``; pretraining does not see them either.
            Each is chosen by a hash of its path, so that the choice stays when files are added.
        on_error: what to do about a file that cannot be decoded: ``stop`` when it is read, or decode all files once at the start
            and ``skip`` the bad ones.
        max_pixels: refuse files with more, as their headers say, before anything is decoded: a small file may hold an image that
            fills the memory (a decompression bomb).
        mean: per channel, of values in [0, 1]; by default ImageNet's.
        std: per channel, of values in [0, 1]; by default ImageNet's.
    """

    root: str
    image_size: int = 224
    color: Literal["rgb", "gray"] = "rgb"
    val_fraction: float = 0.0
    on_error: Literal["stop", "skip"] = "stop"
    max_pixels: int = MAX_PIXELS
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
        if self.max_pixels < 1:
            raise OptionError("max_pixels", "must be positive", found=self.max_pixels, allowed="1 pixel or more")
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
            DataError: the folder or its images are missing, the splits do not fit together, or ``train`` nearly has classes: one
                only, or images beside them.
            OptionError: ``val_fraction`` although there is a test split.
        """
        layout = find_layout(Path(os.path.expanduser(self.root)).absolute(), self._scan)  # noqa: PTH111 - a user that does not exist is no error here
        if layout.test is not None and self.val_fraction:
            fix = "leave it out, or point root at the training folder itself"
            raise OptionError("val_fraction", f"there is a test split already, {layout.test}", found=self.val_fraction, fix=fix)
        folder = self._folder(layout, split)
        if folder is None:
            return None
        check_images(folder, self._scan)
        files = self._scan.images(folder)
        if self.val_fraction and folder == layout.held_out_from:
            files = self._part(files, folder, held_out=split == "test")
        return self._open(folder, files, () if split == "pretrain" else layout.classes)

    def _folder(self, layout: Layout, split: Split) -> Path | None:
        """Where the images of a split are, if it exists."""
        if split == "pretrain":
            return layout.pretrain
        if split == "train":
            check_labels(layout, self._scan)
            return layout.train if layout.classes else None
        if layout.test is None:
            return layout.held_out_from if self.val_fraction else None
        if layout.classes:
            check_same_classes(layout, self._scan)
        return layout.test

    def _part(self, files: Sequence[ImageFile], folder: Path, *, held_out: bool) -> list[ImageFile]:
        """The files that are held out, or the others."""
        part = [file for file in files if (_unit_hash(file.path) < self.val_fraction) == held_out]
        if not part:
            problem = f"{'holds out none' if held_out else 'leaves none'} of the {len(files)} images in {folder}"
            raise OptionError("val_fraction", problem, found=self.val_fraction)
        return part

    def _open(self, folder: Path, files: Sequence[ImageFile], classes: tuple[str, ...]) -> FileSet:
        bad = self._undecodable(folder) if self.on_error == "skip" else frozenset()
        good = [file for file in files if file.path not in bad] if bad else files
        if not good:
            raise DataError(f"{folder}: none of the {len(files)} images can be decoded", fix='on_error = "stop" says why')
        number = {name: label for label, name in enumerate(classes)}
        labels = torch.tensor([number[file.path.partition("/")[0]] for file in good]) if classes else None
        skipped = tuple(file.path for file in files if file.path in bad) if bad else ()
        return FileSet(folder, good, self.image(), labels=labels, classes=classes, skipped=skipped, max_pixels=self.max_pixels)

    def _undecodable(self, folder: Path) -> frozenset[str]:
        if folder not in self._bad:
            self._bad[folder] = undecodable(folder, self._scan.images(folder), self.image(), max_pixels=self.max_pixels)
        return self._bad[folder]

    @cached_property
    def _scan(self) -> FolderScan:
        return FolderScan()

    @cached_property
    def _bad(self) -> dict[Path, frozenset[str]]:
        """By folder, what cannot be decoded."""
        return {}


def _unit_hash(path: str) -> float:
    """A path -> [0, 1), evenly, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=6).digest()) / 2**48
