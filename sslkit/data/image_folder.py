"""A folder of image files as a dataset, with class folders or without."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from typing_extensions import override

from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.images import Dataset, ImageDecoder, ImageSpec, Split
from sslkit.data.canvas import Fit
from sslkit.data.file_set import FileSet
from sslkit.data.folder_scan import first_folder
from sslkit.data.image_file import MAX_PIXELS, read_header
from sslkit.data.image_options import check_display, check_statistics, check_window
from sslkit.data.layout import Layout, find_layout

MAX_SIDE = 8192
"""Pixels: an image of this size takes 200 MB."""

IMAGENET = {  # mean and std; gray: the luma of the means, and of the deviations, for channels are nearly in step
    "rgb": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "gray": ((0.459,), (0.226,)),
}


@final
@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """JPEG, PNG, WebP, GIF, TIFF and BMP files in a folder, and what a decoder reads, in one of two layouts. Hidden files are left alone.

    With a subfolder ``train`` or ``unlabeled``, subfolders are splits, in upper or lower case:

    - ``train`` or ``training`` holds the training images,
    - ``test`` or ``testing``, else ``val``, ``valid``, ``validation`` or ``dev``, the test images; the latter also if ``train`` has
      classes and ``test`` has none,
    - pretraining takes every image in ``unlabeled`` (or ``unlabelled``), else in ``train``.

    Other folders of images beside them are left out, and a note names them. Without these subfolders the folder itself is the training
    split, and pretraining takes every image in it. What can be understood in both ways is refused; the options ``train``, ``test`` and
    ``unlabeled`` settle it.

    The subfolders of the training split are its classes if at least two of them hold images, at any depth, and no image is beside
    them. Otherwise there are no labels: then ``train`` does not exist, and ``test`` only measures the pretext task. Test images have
    labels if they are in class folders, too.

    Folders are scanned, and with ``on_error = "skip"`` their images decoded, once, when the first split is loaded that needs them:
    all splits of one object see the same files.

    Attributes:
        root: the folder.
        image_size: of the canvas that files are decoded to, in pixels: the side of a square, or height and width. Files that have this size
            keep their pixels. Crops of a larger canvas are views, made on the compute device.
        color: what files are converted to; ``bands`` are taken as they are, as many as ``mean`` and ``std`` have, which must be stated.
        fit: what happens to a file of another shape: ``crop`` resizes it until it covers the canvas, and cuts out the centre; ``pad`` resizes
            it until all of it is on the canvas, between black margins; ``stretch`` distorts it.
        window: the pixel values that become 0 and 1, ``[0, 65535]`` or ``[-1000, 400]``. Images of 16 bits and of floating-point numbers need
            one, and keep their values until they are on the compute device; 8-bit images take part.
        display: the channels to draw in reports as red, green and blue, or the only one; by default the first three, or of fewer the first.
        decoder: reads the files with its suffixes, ``tiff`` for example TIFF files of many bands.
        train: the folder of the training images below ``root``; ``"."`` is ``root`` itself, with class folders of any name. None: by name.
        test: the folder of the test images. None: by name.
        unlabeled: the folder of images for pretraining. None: by name.
        val_fraction: without a test split, or where the training images have classes and the test images none, hold out about this part
            of the images of each class as ``test``; pretraining does not see them either. Each is chosen by a hash of its path, so that
            the choice stays when files are added. Of two images of a class or more at least one is held out and one is not; a single
            one is not.
        on_error: what to do about a file that cannot be decoded: ``stop`` when it is read, or decode all files once at the start
            and ``skip`` the bad ones.
        max_pixels: refuse files with more, as their headers say, before anything is decoded: a small file may hold an image that
            fills the memory (a decompression bomb).
        mean: per channel, of values in [0, 1]; by default ImageNet's.
        std: per channel, of values in [0, 1]; by default ImageNet's.
    """

    root: str
    image_size: int | tuple[int, int] = 224
    color: Literal["rgb", "gray", "bands"] = "rgb"
    fit: Fit = "crop"
    window: tuple[float, float] | None = None
    display: tuple[int, ...] = ()
    decoder: ImageDecoder | None = None
    train: str | None = None
    test: str | None = None
    unlabeled: str | None = None
    val_fraction: float = 0.0
    on_error: Literal["stop", "skip"] = "stop"
    max_pixels: int = MAX_PIXELS
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.root:
            raise OptionError("root", "must be a folder", found=self.root)
        if min(self._canvas) < 1:
            raise OptionError("image_size", "must be positive", found=self.image_size, allowed="1 pixel or more")
        if max(self._canvas) > MAX_SIDE:
            raise OptionError("image_size", "is too large", found=self.image_size, allowed=f"at most {MAX_SIDE:,} pixels")
        if not 0 <= self.val_fraction < 1:
            raise OptionError("val_fraction", "must be a part of the images", found=self.val_fraction, allowed="0 <= val_fraction < 1")
        if self.max_pixels < 1:
            raise OptionError("max_pixels", "must be positive", found=self.max_pixels, allowed="1 pixel or more")
        num_chs = len(IMAGENET[self.color][0]) if self.color != "bands" else None if self.mean is None else len(self.mean)
        if num_chs is not None:
            check_statistics(num_chs, self.mean, self.std)
        check_display(num_chs, self.display)
        check_window(self.window)

    def image(self) -> ImageSpec:
        """The canvas; an ``OptionError`` where there are bands whose mean and std are not stated."""
        if self.color != "bands":
            mean, std = IMAGENET[self.color]
            return ImageSpec(*self._canvas, self.color, self.mean or mean, self.std or std)
        for option, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                fix = "`sslkit data stats` measures it"
                raise OptionError(option, 'missing; required with color = "bands"', allowed="one value in [0, 1] per band", fix=fix)
        return ImageSpec(*self._canvas, None, self.mean or (), self.std or ())

    def measurable(self) -> "ImageFolder":
        """The same images as they are in their files, read without what a measurement is to find out: window, number of bands, bad files."""
        changes: dict[str, Any] = {"on_error": "stop", "window": self.window or (0.0, 1.0)}
        if self.color == "bands":
            known = self.mean or self.std
            half = (0.5,) * (len(known) if known else self._num_bands())
            changes |= {"mean": half, "std": half}
        return replace(self, **changes)

    def _num_bands(self) -> int:
        """Of the first file whose header can be read."""
        folder, first = self._layout.pretrain, None
        self._layout.check_images(folder)
        for file in self._layout.scan[folder].images:
            try:
                return read_header(folder / file.path, decoder=self.decoder, max_pixels=self.max_pixels).num_chs
            except DataError as error:
                first = first or error
        assert first is not None
        raise first

    @property
    def _canvas(self) -> tuple[int, int]:
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def load(self, split: Split) -> FileSet | None:
        """List the files of a split; with ``on_error = "skip"`` also decode them all once.

        Returns:
            The images. None: ``train`` without classes, ``test`` without images in a test split and ``val_fraction``.

        Raises:
            DataError: the folder or its images are missing, it can be understood in two ways, a class has lost all of its images, or
                ``train`` nearly has classes: one only, or images beside them.
            OptionError: ``val_fraction`` although there is a test split, or a folder that is named is not there.
        """
        layout = self._layout
        test = layout.test if layout.test and layout.scan[layout.test].images else None
        if test is not None and self.val_fraction:
            fix = "leave it out, or point root at the training folder itself"
            raise OptionError("val_fraction", f"there is a test split already, {test}", found=self.val_fraction, fix=fix)
        if split == "train":
            layout.check_labels()
            return self._open(layout.train, layout.classes, held_out=False) if layout.train and layout.classes else None
        if split == "pretrain":
            layout.check_images(layout.pretrain)
            return self._open(layout.pretrain, (), held_out=False)
        if test is not None:
            return self._open(test, layout.scan[test].filled if layout.has_labels(test) else ())
        return self._open(layout.held_out_from, layout.classes, held_out=True) if self.val_fraction else None

    @override
    def why_unlabeled(self, split: Split) -> str:
        return self._layout.why_unlabeled() if split == "test" else ""

    @cached_property
    def _layout(self) -> Layout:
        named = {kind: name for kind in ("train", "test", "unlabeled") if (name := getattr(self, kind)) is not None}
        suffixes = () if self.decoder is None else self.decoder.suffixes
        layout = find_layout(Path(os.path.expanduser(self.root)).absolute(), named, suffixes)  # noqa: PTH111 - a user that does not exist is no error here
        if not (self.val_fraction and layout.test and layout.classes) or self.test or layout.has_labels(layout.test):
            return layout
        beside = (layout.test,) if layout.scan[layout.test].images else ()
        return layout._replace(test=None, left_out=(*layout.left_out, *beside))

    @cached_property
    def _undecodable(self) -> dict[Path, frozenset[str]]:
        """By folder, the paths of the files that are skipped; each folder is checked when a split first needs it."""
        return {}

    def _open(self, folder: Path, classes: tuple[str, ...], *, held_out: bool | None = None) -> FileSet:
        """The images of a folder; where some of them are held out, those or the others. None: the test split has a folder."""
        layout, files = self._layout, self._layout.scan[folder].images
        how = {"max_pixels": self.max_pixels, "fit": self.fit, "window": self.window, "display": self.display, "decoder": self.decoder}
        make = partial(FileSet, folder, image=self.image(), **how)
        if self.on_error == "skip" and folder not in self._undecodable:
            self._undecodable[folder] = make(files).undecodable()
        bad = self._undecodable.get(folder, frozenset())
        good = [file for file in files if file.path not in bad] if bad else files
        if not good:
            raise DataError(f"{folder}: none of the {len(files)} images can be decoded", fix='on_error = "stop" says why')
        if bad and folder == layout.train and (lost := {*classes} - {first_folder(file.path) for file in good}):
            raise DataError(f"{folder / min(lost)}: none of its images can be decoded", fix='on_error = "stop" says why')
        skipped = sorted(bad)
        if self.val_fraction and folder == layout.held_out_from and held_out is not None:
            chosen = _held_out([file.path for file in good], self.val_fraction, by_class=bool(layout.classes))
            good = [file for file in good if (file.path in chosen) == held_out]
            skipped = [path for path in skipped if (_unit_hash(path) < self.val_fraction) == held_out]
            if not good:
                problem = f"{'holds out none' if held_out else 'leaves none'} of the {len(files)} images in {folder}"
                raise OptionError("val_fraction", problem, found=self.val_fraction)
        number = {name: label for label, name in enumerate(classes)}
        labels = torch.tensor([number[first_folder(file.path)] for file in good]) if classes else None
        notes = tuple(layout.notes(folder))
        return make(good, labels=labels, classes=classes, skipped=tuple(skipped), notes=notes)


def _held_out(paths: Sequence[str], fraction: float, *, by_class: bool) -> set[str]:
    """Choose by hash; each class keeps an image and gives one away, if it has two."""
    classes: dict[str, list[tuple[float, str]]] = {}
    for path in paths:
        classes.setdefault(first_folder(path) if by_class else "", []).append((_unit_hash(path), path))
    chosen: set[str] = set()
    for members in classes.values():
        below = {path for value, path in members if value < fraction}
        if len(members) > 1 and not below:
            below = {min(members)[1]}
        if len(below) == len(members):
            below.remove(max(members)[1])
        chosen |= below
    return chosen


def _unit_hash(path: str) -> float:
    """A path -> [0, 1), evenly, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=6).digest()) / 2**48
