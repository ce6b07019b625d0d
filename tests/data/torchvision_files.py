"""The files of the well-known datasets, small and in their true formats, with torchvision's checksums replaced by theirs."""

import gzip
import hashlib
import pickle
import struct
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io
import torchvision.datasets as tv

from sslkit.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST

SIZES = {"pretrain": 4, "train": 4, "test": 2}
LABELS = {"train": [3, 0, 9, 1], "test": [2, 0]}


def noise(*shape: int, **sizes: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {split: random.integers(0, 256, (num, *shape), dtype=np.uint8) for split, num in sizes.items()}


RGB, GRAY = noise(3, 32, 32, train=4, test=2), noise(1, 28, 28, train=4, test=2)
STL = noise(3, 96, 96, train=4, test=2, unlabeled=4)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(root: Path, monkeypatch) -> Path:
    """Five training files, the last without images, and the archive with all files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n + 1}": (RGB["train"][n : n + 1], LABELS["train"][n : n + 1]) for n in range(4)}
    batches |= {"data_batch_5": (RGB["train"][4:], []), "test_batch": (RGB["test"], LABELS["test"])}
    for name, (images, labels) in batches.items():
        content = pickle.dumps({"data": images.reshape(-1, 3072), "labels": labels}, protocol=2)
        assert b"\x89\x88\x87" in content  # False and True; Python 2 wrote 0 and 1
        (folder / name).write_bytes(content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))
    monkeypatch.setattr(tv.CIFAR10, "train_list", [[f"data_batch_{n}", md5(folder / f"data_batch_{n}")] for n in range(1, 6)])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [["test_batch", md5(folder / "test_batch")]])
    monkeypatch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5(root / "cifar-10-python.tar.gz"))
    return folder


def write_cifar100(root: Path, monkeypatch) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    for split in ("train", "test"):
        batch = {"data": RGB[split].reshape(-1, 3072), "fine_labels": LABELS[split], "coarse_labels": [0] * len(LABELS[split])}
        (folder / split).write_bytes(pickle.dumps(batch, protocol=2))
        monkeypatch.setattr(tv.CIFAR100, f"{split}_list", [[split, md5(folder / split)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"fine{n}" for n in range(100)]}, protocol=2))
    monkeypatch.setattr(tv.CIFAR100, "meta", {**tv.CIFAR100.meta, "md5": md5(folder / "meta")})


def write_mnist(root: Path, monkeypatch, *, name: str = "MNIST") -> Path:
    """The four files, packed."""
    raw, source = root / name / "raw", getattr(tv, name)
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = GRAY[split], LABELS[split]
        idx3 = struct.pack(">IIII", 0x0803, len(images), 28, 28) + images.tobytes()
        idx1 = struct.pack(">II", 0x0801, len(labels)) + bytes(labels)
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx3))
        (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx1))
    monkeypatch.setattr(source, "resources", [(name, md5(raw / name)) for name, _ in source.resources])
    return raw


def write_stl10(root: Path, monkeypatch) -> None:
    """Images are stored channel by channel, column by column; labels count from 1."""
    folder = root / "stl10_binary"
    folder.mkdir()
    for name, pixels in STL.items():
        (folder / f"{name}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    for split, labels in LABELS.items():
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(tv.STL10, name, [[file, md5(folder / file)] for file, _ in getattr(tv.STL10, name)])


def write_svhn(root: Path, monkeypatch) -> None:
    """Images are (H, W, C, N); the digit 0 has the label 10."""
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        labels = [label or 10 for label in LABELS[split]]
        scipy.io.savemat(path, {"X": RGB[split].transpose(2, 3, 1, 0), "y": np.array(labels, dtype=np.uint8)[:, None]})
        monkeypatch.setitem(tv.SVHN.split_list, split, [tv.SVHN.split_list[split][0], path.name, md5(path)])


WRITERS = {
    CIFAR10: write_cifar10,
    CIFAR100: write_cifar100,
    STL10: write_stl10,
    SVHN: write_svhn,
    MNIST: write_mnist,
    FashionMNIST: partial(write_mnist, name="FashionMNIST"),
}
