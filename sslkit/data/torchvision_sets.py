"""The usual small datasets, read by torchvision and kept in memory. Their files come from strangers: CIFAR's pickles may hold arrays,
numbers and text alone, and archives are unpacked into their folder alone.
"""

import hashlib
import importlib
import io
import os
import pickle
import tarfile
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from numpy.exceptions import VisibleDeprecationWarning

from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.images import Dataset, ImageSpec, Split
from sslkit.data.arrays import ArraySet
from sslkit.data.image_options import check_statistics

DIGITS = tuple("0123456789")

_PARTS_OF_ARRAYS = frozenset(
    {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("__builtin__", "bytes")}
    | {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
)
"""What an array is pickled as, by module and name, as Python 2 and NumPy before and since version 2 wrote it."""


class Files(NamedTuple):
    """Where a dataset's files belong, each with its MD5 checksum, or None where torchvision knows none; one of the two groups is enough."""

    unpacked: Mapping[Path, str | None]  # that are read
    archives: Mapping[Path, str | None]  # that are downloaded, if they must be unpacked
    url: str  # where the first of them comes from


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet(Dataset):
    """What all of these datasets share: where the files are, and what is said when they are not there.

    Nothing is unpickled whose checksum is wrong, and archives are unpacked into their folder and nowhere else.

    Attributes:
        root: the folder of the files; by default the environment variable ``SSLKIT_DATA``, else ``~/.cache/sslkit``.
        download: fetch what is missing. An archive that is there already is unpacked even without.
        mean: per channel, of values in [0, 1]; by default the well-known one.
        std: per channel, the same.
    """

    root: str | None = None
    download: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    spec: ClassVar[ImageSpec]
    sizes: ClassVar[dict[Split, int]]
    """How many images each split has."""

    def __post_init__(self) -> None:
        if self.root == "":
            raise OptionError("root", "must be a folder", found=self.root, fix="leave it out for the default")
        check_statistics(self.spec.num_chs, self.mean, self.std)

    @abstractmethod
    def files(self) -> Files:
        """Where the files belong."""

    @abstractmethod
    def read(self, split: Split, *, download: bool) -> tuple[Any, Any, tuple[str, ...]]:
        """Let torchvision read one split, after a download where one is needed and allowed: (N, C, H, W) uint8 images and (N,) integers, as
        tensors, arrays or lists, and the class names.
        """

    @property
    def source(self) -> Any:
        """The class of the same name in torchvision."""
        return _torchvision(type(self).__name__)

    @property
    def folder(self) -> Path:
        """The folder of the files, resolved from ``root`` and the environment."""
        return Path(os.path.expanduser(self.root or os.environ.get("SSLKIT_DATA") or "~/.cache/sslkit")).absolute()  # noqa: PTH111 - a user that does not exist is no error here

    @final
    def image(self) -> ImageSpec:
        """Size, colour, and the well-known statistics of the training images, where no others are stated."""
        return self.spec._replace(mean=self.mean or self.spec.mean, std=self.std or self.spec.std)

    @final
    def available(self) -> bool:
        """Whether all files are there, unpacked or not, with the right checksums."""
        files = self.files()
        return _all_intact(files.unpacked) or (bool(files.archives) and _all_intact(files.archives))

    @final
    def load(self, split: Split) -> ArraySet:
        """Read one split into memory; every split exists."""
        try:
            with warnings.catch_warnings():
                # CIFAR's pickles were written by Python 2, with 0 for False: NumPy 2.4 complains, and there is nothing to be done.
                warnings.simplefilter("ignore", VisibleDeprecationWarning)
                pixels, labels, classes = self.read(split, download=self.download or self.available())
        except Exception as error:  # torchvision lets through whatever the network, the disk, tarfile or a parser raises
            raise self._failure(error) from error
        if len(pixels) != self.sizes[split]:
            problem, allowed = f"{type(self).__name__}: {split} is incomplete", f"{self.sizes[split]} images"
            raise DataError(problem, found=len(pixels), allowed=allowed, fix=self._afresh())
        tensors = torch.from_numpy(np.ascontiguousarray(pixels)), torch.as_tensor(labels, dtype=torch.int64)
        images = ArraySet(tensors[0], self.image(), labels=tensors[1], classes=classes)
        return images.without_labels() if split == "pretrain" else images

    def _afresh(self) -> str:
        files = self.files()
        faulty = {path: checksum for path, checksum in files.unpacked.items() if path.exists()} or files.archives
        return f"delete {', '.join(path.name for path in faulty)} in {next(iter(faulty)).parent} and start again"

    def _failure(self, error: Exception) -> DataError:
        """What went wrong, and which files to put where."""
        name, reason = type(self).__name__, " ".join(str(error).split()) or type(error).__name__
        if self.available():
            return DataError(f"{name}: the files cannot be read ({reason})", fix=self._afresh())
        files = self.files()
        checksums = {**files.unpacked, **files.archives}
        damaged = [path.name for path, checksum in checksums.items() if path.exists() and not _all_intact({path: checksum})]
        wanted = [*(files.archives or files.unpacked)]
        return DataError(
            f"{name} is not in {self.folder}"
            + (f" ({', '.join(damaged)}: wrong checksum)" if damaged else "")
            + (f", and could not be downloaded ({reason})" if self.download else ", and download = false"),
            fix=f"put {' and '.join(path.name for path in wanted)} from {files.url} into {wanted[0].parent},"
            " or set root, or the environment variable SSLKIT_DATA, to the folder that has them",
        )


def _torchvision(name: str) -> Any:
    """Something of ``torchvision.datasets``, imported late: it takes seconds, and this module is loaded at every start."""
    return getattr(importlib.import_module("torchvision.datasets"), name)


def _all_intact(files: Mapping[Path, str | None]) -> bool:
    check_integrity = _torchvision("utils").check_integrity
    return all(check_integrity(path, checksum) for path, checksum in files.items())


@dataclass(frozen=True, kw_only=True)
class _Packed(TorchvisionSet):
    """All files are packed as one archive."""

    def files(self) -> Files:
        """What torchvision lists."""
        source = self.source
        unpacked = {self.folder / source.base_folder / name: checksum for name, checksum in (*source.train_list, *source.test_list)}
        return Files(unpacked, {self.folder / source.filename: source.tgz_md5}, source.url)

    def unpack(self) -> None:
        """Download the archive, unless it is there, and unpack it, unless the files are there.

        Not left to torchvision: tarfile refuses what leads out of the folder, links to there, and devices, if it is asked to. Python has
        had that filter since 3.11.4; before, the checksum is the only protection.
        """
        if _all_intact(self.files().unpacked):
            return
        source = self.source
        _torchvision("utils").download_url(source.url, self.folder, filename=source.filename, md5=source.tgz_md5)
        with tarfile.open(self.folder / source.filename) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(self.folder)


class _ArrayUnpickler(pickle.Unpickler):
    """Knows no names but those that arrays need, so that more than a checksum protects from foreign code."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _PARTS_OF_ARRAYS:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of an array")
        return super().find_class(module_name, global_name)


@dataclass(frozen=True, kw_only=True)
class _Cifar(_Packed):
    """CIFAR-10 and CIFAR-100 have one format: pickles."""

    sizes: ClassVar[dict[Split, int]] = {"pretrain": 50_000, "train": 50_000, "test": 10_000}

    def files(self) -> Files:
        files, source = super().files(), self.source
        meta = self.folder / source.base_folder / source.meta["filename"]
        return files._replace(unpacked={**files.unpacked, meta: source.meta["md5"]})

    def read(self, split: Split, *, download: bool) -> tuple[Any, Any, tuple[str, ...]]:
        """``pretrain`` is ``train``."""
        source = self.source
        if download:
            self.unpack()
        batches = [self._unpickle(name) for name, _ in (source.test_list if split == "test" else source.train_list)]
        pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch["labels" if "labels" in batch else "fine_labels"]]
        return pixels, labels, tuple(self._unpickle(source.meta["filename"])[source.meta["key"]])

    def _unpickle(self, name: str) -> Any:
        """Not left to torchvision, which opens a file twice, to check it and to read it: here the bytes that are read are checked."""
        path = self.folder / self.source.base_folder / name
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != self.files().unpacked[path]:
            raise DataError(f"{path}: wrong checksum")
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


@final
@dataclass(frozen=True, kw_only=True)
class CIFAR10(_Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes, RGB, 32 x 32 pixels (Krizhevsky 2009).

    The statistics are those of the RotNet paper's reference code.
    """

    spec = ImageSpec(32, 32, "rgb", (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))


@final
@dataclass(frozen=True, kw_only=True)
class CIFAR100(_Cifar):
    """CIFAR-100: 50,000 training and 10,000 test images of 100 classes, RGB, 32 x 32 pixels (Krizhevsky 2009)."""

    spec = ImageSpec(32, 32, "rgb", (129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255))


@final
@dataclass(frozen=True, kw_only=True)
class STL10(_Packed):
    """STL-10: 100,000 images without labels for pretraining, 5,000 training and 8,000 test images of 10 classes, RGB, 96 x 96 pixels
    (Coates et al. 2011).
    """

    spec = ImageSpec(96, 96, "rgb", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
    sizes: ClassVar[dict[Split, int]] = {"pretrain": 100_000, "train": 5_000, "test": 8_000}

    def read(self, split: Split, *, download: bool) -> tuple[Any, Any, tuple[str, ...]]:
        """``pretrain`` is torchvision's split ``unlabeled``, whose labels are -1."""
        if download:
            self.unpack()
        images = self.source(self.folder, split="unlabeled" if split == "pretrain" else split)
        classes = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
        return images.data, images.labels, classes


@final
@dataclass(frozen=True, kw_only=True)
class SVHN(TorchvisionSet):
    """Street View House Numbers, cropped digits: 73,257 training and 26,032 test images of 10 classes, RGB, 32 x 32 pixels (Netzer et
    al. 2011). The 531,131 extra images are not used.
    """

    spec = ImageSpec(32, 32, "rgb", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    sizes: ClassVar[dict[Split, int]] = {"pretrain": 73_257, "train": 73_257, "test": 26_032}

    def files(self) -> Files:
        """One MATLAB file a split."""
        listed = [self.source.split_list[split] for split in ("train", "test")]
        return Files({self.folder / name: checksum for _, name, checksum in listed}, {}, listed[0][0])

    def read(self, split: Split, *, download: bool) -> tuple[Any, Any, tuple[str, ...]]:
        """``pretrain`` is ``train``."""
        images = self.source(self.folder, split="test" if split == "test" else "train", download=download)
        return images.data, images.labels, DIGITS


@dataclass(frozen=True, kw_only=True)
class _Mnist(TorchvisionSet):
    """MNIST and Fashion-MNIST have one format."""

    sizes: ClassVar[dict[Split, int]] = {"pretrain": 60_000, "train": 60_000, "test": 10_000}
    classes: ClassVar[tuple[str, ...]]

    def files(self) -> Files:
        """Four files, each packed by itself; torchvision has checksums of the packed ones only."""
        source, raw = self.source, self.folder / type(self).__name__ / "raw"
        unpacked = {raw / Path(name).stem: None for name, _ in source.resources}
        return Files(unpacked, {raw / name: checksum for name, checksum in source.resources}, source.mirrors[0])

    def read(self, split: Split, *, download: bool) -> tuple[Any, Any, tuple[str, ...]]:
        """``pretrain`` is ``train``."""
        # Older versions of torchvision left pickles in a folder beside, which it still prefers to the files that were published.
        reader = type(type(self).__name__, (self.source,), {"_check_legacy_exist": lambda _self: False})
        images = reader(self.folder, train=split != "test", download=download)
        return images.data.unsqueeze(1), images.targets, self.classes


@final
@dataclass(frozen=True, kw_only=True)
class MNIST(_Mnist):
    """MNIST: 60,000 training and 10,000 test images of 10 handwritten digits, gray, 28 x 28 pixels (LeCun et al. 1998)."""

    spec = ImageSpec(28, 28, "gray", (0.1307,), (0.3081,))
    classes = DIGITS


@final
@dataclass(frozen=True, kw_only=True)
class FashionMNIST(_Mnist):
    """Fashion-MNIST: 60,000 training and 10,000 test images of 10 kinds of clothes, gray, 28 x 28 pixels (Xiao et al. 2017)."""

    spec = ImageSpec(28, 28, "gray", (0.2860,), (0.3530,))
    classes = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
