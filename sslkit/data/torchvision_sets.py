"""The usual small datasets, read by torchvision and kept in memory."""

import hashlib
import importlib
import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import torch
from numpy.exceptions import VisibleDeprecationWarning
from torch import Tensor

from sslkit.contract.errors import DataError, OptionError
from sslkit.contract.images import Dataset, ImageSpec, Split
from sslkit.data.arrays import ArraySet
from sslkit.data.untrusted_archives import load_arrays, safe_extraction

DIGITS = tuple("0123456789")


class Files(NamedTuple):
    """Where a dataset's files belong and what they must be; one of the two groups is enough.

    Attributes:
        unpacked: the files that are read, each with its MD5 checksum, or None where torchvision knows none.
        archives: the files that are downloaded, if they must be unpacked.
        url: where the first of them comes from.
    """

    unpacked: Mapping[Path, str | None]
    archives: Mapping[Path, str | None]
    url: str


class Sizes(NamedTuple):
    """How many images each split has."""

    pretrain: int
    train: int
    test: int


class Content(NamedTuple):
    """One split as torchvision reads it: (N, C, H, W) uint8 images, (N,) int64 labels, the names of the classes."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TorchvisionSet(Dataset):
    """What all of these datasets share: where the files are, and what is said when they are not there.

    Nothing is unpickled whose checksum is wrong, and archives are unpacked into their folder and nowhere else.

    Attributes:
        root: the folder of the files; by default the environment variable ``SSLKIT_DATA``, else ``~/.cache/sslkit``.
        download: fetch what is missing. An archive that lies in its place is unpacked even without.
    """

    root: str | None = None
    download: bool = True

    spec: ClassVar[ImageSpec]
    sizes: ClassVar[Sizes]

    def __post_init__(self) -> None:
        if self.root == "":
            raise OptionError("root", "must be a folder", found=self.root, fix="leave it out for the default")

    @abstractmethod
    def files(self) -> Files:
        """Where the files belong."""

    @abstractmethod
    def read(self, split: Split, *, download: bool) -> Content:
        """Let torchvision read one split, after a download where one is needed and allowed."""

    @property
    def folder(self) -> Path:
        """The folder of the files, resolved from ``root`` and the environment."""
        return Path(os.path.expanduser(self.root or os.environ.get("SSLKIT_DATA") or "~/.cache/sslkit")).absolute()  # noqa: PTH111 - a user that does not exist is no error here

    @final
    def image(self) -> ImageSpec:
        """Size, colour, and the well-known statistics of the training images."""
        return self.spec

    @final
    def available(self) -> bool:
        """Whether all files are there, unpacked or not, with the right checksums."""
        files = self.files()
        return _all_intact(files.unpacked) or (bool(files.archives) and _all_intact(files.archives))

    @final
    def load(self, split: Split) -> ArraySet:
        """Read one split into memory; every split exists."""
        try:
            with warnings.catch_warnings(), safe_extraction():
                # CIFAR's pickles were written by Python 2, with 0 for False: NumPy 2.4 complains, and there is nothing to be done.
                warnings.simplefilter("ignore", VisibleDeprecationWarning)
                content = self.read(split, download=self.download or self.available())
        except Exception as error:  # torchvision lets through whatever the network, the disk, tarfile or a parser raises
            raise self._failure(error) from error
        expected = getattr(self.sizes, split)
        if len(content.pixels) != expected:
            found = len(content.pixels)
            raise DataError(f"{self._name}: {split} is incomplete", found=found, allowed=f"{expected} images", fix=self._afresh())
        images = ArraySet(content.pixels, self.spec, labels=content.labels, classes=content.classes)
        return images.without_labels() if split == "pretrain" else images

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _afresh(self) -> str:
        files = self.files()
        faulty = {path: checksum for path, checksum in files.unpacked.items() if path.exists()} or files.archives
        return f"delete {', '.join(path.name for path in faulty)} in {_parent(faulty)} and start again"

    def _failure(self, error: Exception) -> DataError:
        """What went wrong, and which files to put where."""
        reason = " ".join(str(error).split()) or type(error).__name__
        if self.available():
            return DataError(f"{self._name}: the files cannot be read ({reason})", fix=self._afresh())
        files = self.files()
        wanted, checksums = files.archives or files.unpacked, {**files.unpacked, **files.archives}
        damaged = [path.name for path in (*files.unpacked, *files.archives) if path.exists() and not _all_intact({path: checksums[path]})]
        return DataError(
            f"{self._name} is not in {self.folder}"
            + (f" ({', '.join(damaged)}: wrong checksum)" if damaged else "")
            + (f", and could not be downloaded ({reason})" if self.download else ", and download = false"),
            fix=f"put {' and '.join(path.name for path in wanted)} from {files.url} into {_parent(wanted)},"
            " or set root, or the environment variable SSLKIT_DATA, to the folder that has them",
        )


def _torchvision(name: str) -> Any:
    """Something of ``torchvision.datasets``. Imported late: it takes seconds, and this module is loaded at every start, for the list
    of datasets.
    """
    return getattr(importlib.import_module("torchvision.datasets"), name)


def _all_intact(files: Mapping[Path, str | None]) -> bool:
    check_integrity = _torchvision("utils").check_integrity
    return all(check_integrity(path, checksum) for path, checksum in files.items())


def _parent(files: Mapping[Path, str | None]) -> Path:
    return next(iter(files)).parent


@dataclass(frozen=True, kw_only=True)
class _Cifar(TorchvisionSet):
    """CIFAR-10 and CIFAR-100 have one format."""

    def files(self) -> Files:
        """Pickles, packed as one archive."""
        source = _torchvision(self._name)
        pickles = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        unpacked = {self.folder / source.base_folder / name: checksum for name, checksum in pickles}
        return Files(unpacked, {self.folder / source.filename: source.tgz_md5}, source.url)

    def read(self, split: Split, *, download: bool) -> Content:
        """``pretrain`` is ``train``."""
        source = _torchvision(self._name)
        if download and not _all_intact(self.files().unpacked):
            unpack = _torchvision("utils").download_and_extract_archive
            unpack(source.url, self.folder, filename=source.filename, md5=source.tgz_md5)
        batches = [self._unpickle(name) for name, _ in (source.test_list if split == "test" else source.train_list)]
        pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = [label for batch in batches for label in batch["labels" if "labels" in batch else "fine_labels"]]
        classes = self._unpickle(source.meta["filename"])[source.meta["key"]]
        return Content(torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(labels), tuple(classes))

    def _unpickle(self, name: str) -> Any:
        """Not left to torchvision, which opens a file twice, to check it and to read it: what is checked here are the bytes themselves."""
        path = self.folder / _torchvision(self._name).base_folder / name
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != self.files().unpacked[path]:
            raise DataError(f"{path}: wrong checksum")
        return load_arrays(content)


@final
@dataclass(frozen=True, kw_only=True)
class CIFAR10(_Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes, RGB, 32 x 32 pixels (Krizhevsky 2009).

    The statistics are those of the RotNet paper's reference code.
    """

    spec = ImageSpec(32, 32, "rgb", (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
    sizes = Sizes(pretrain=50_000, train=50_000, test=10_000)


@final
@dataclass(frozen=True, kw_only=True)
class CIFAR100(_Cifar):
    """CIFAR-100: 50,000 training and 10,000 test images of 100 classes, RGB, 32 x 32 pixels (Krizhevsky 2009)."""

    spec = ImageSpec(32, 32, "rgb", (129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255))
    sizes = Sizes(pretrain=50_000, train=50_000, test=10_000)


@final
@dataclass(frozen=True, kw_only=True)
class STL10(TorchvisionSet):
    """STL-10: 100,000 images without labels for pretraining, 5,000 training and 8,000 test images of 10 classes, RGB, 96 x 96 pixels
    (Coates et al. 2011).
    """

    spec = ImageSpec(96, 96, "rgb", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713))
    sizes = Sizes(pretrain=100_000, train=5_000, test=8_000)

    def files(self) -> Files:
        """Plain bytes, packed as one archive."""
        source = _torchvision("STL10")
        unpacked = {self.folder / source.base_folder / name: checksum for name, checksum in (*source.train_list, *source.test_list)}
        return Files(unpacked, {self.folder / source.filename: source.tgz_md5}, source.url)

    def read(self, split: Split, *, download: bool) -> Content:
        """``pretrain`` is torchvision's split ``unlabeled``, whose labels are -1."""
        source = _torchvision("STL10")(self.folder, split="unlabeled" if split == "pretrain" else split, download=download)
        classes = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
        return Content(torch.from_numpy(source.data).contiguous(), torch.from_numpy(source.labels.astype(np.int64)), classes)


@final
@dataclass(frozen=True, kw_only=True)
class SVHN(TorchvisionSet):
    """Street View House Numbers, cropped digits: 73,257 training and 26,032 test images of 10 classes, RGB, 32 x 32 pixels (Netzer et
    al. 2011). The 531,131 extra images are not used.
    """

    spec = ImageSpec(32, 32, "rgb", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
    sizes = Sizes(pretrain=73_257, train=73_257, test=26_032)

    def files(self) -> Files:
        """One MATLAB file a split."""
        sources = [_torchvision("SVHN").split_list[split] for split in ("train", "test")]
        return Files({self.folder / name: checksum for _, name, checksum in sources}, {}, sources[0][0])

    def read(self, split: Split, *, download: bool) -> Content:
        """``pretrain`` is ``train``."""
        source = _torchvision("SVHN")(self.folder, split="test" if split == "test" else "train", download=download)
        return Content(torch.from_numpy(np.ascontiguousarray(source.data)), torch.from_numpy(source.labels), DIGITS)


@dataclass(frozen=True, kw_only=True)
class _Mnist(TorchvisionSet):
    """MNIST and Fashion-MNIST have one format."""

    classes: ClassVar[tuple[str, ...]]

    def files(self) -> Files:
        """Four files, each packed by itself; torchvision has checksums of the packed ones only."""
        source, raw = _torchvision(self._name), self.folder / self._name / "raw"
        unpacked = {raw / Path(name).stem: None for name, _ in source.resources}
        return Files(unpacked, {raw / name: checksum for name, checksum in source.resources}, source.mirrors[0])

    def read(self, split: Split, *, download: bool) -> Content:
        """``pretrain`` is ``train``."""
        reader = _torchvision(self._name)
        # Older versions of torchvision left pickles in a folder beside, which it still prefers to the files that were published.
        reader = type(reader.__name__, (reader,), {"_check_legacy_exist": lambda _self: False})
        source = reader(self.folder, train=split != "test", download=download)
        return Content(source.data.unsqueeze(1), source.targets, self.classes)


@final
@dataclass(frozen=True, kw_only=True)
class MNIST(_Mnist):
    """MNIST: 60,000 training and 10,000 test images of 10 handwritten digits, gray, 28 x 28 pixels (LeCun et al. 1998)."""

    spec = ImageSpec(28, 28, "gray", (0.1307,), (0.3081,))
    sizes = Sizes(pretrain=60_000, train=60_000, test=10_000)
    classes = DIGITS


@final
@dataclass(frozen=True, kw_only=True)
class FashionMNIST(_Mnist):
    """Fashion-MNIST: 60,000 training and 10,000 test images of 10 kinds of clothes, gray, 28 x 28 pixels (Xiao et al. 2017)."""

    spec = ImageSpec(28, 28, "gray", (0.2860,), (0.3530,))
    sizes = Sizes(pretrain=60_000, train=60_000, test=10_000)
    classes = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
