"""Every dataset is read from small files in its true format, with torchvision's checksums replaced by theirs. Nothing is fetched."""

import gzip
import hashlib
import pickle
import re
import shutil
import struct
import tarfile
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as tv

from sslkit.contract.errors import DataError, OptionError
from sslkit.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST, TorchvisionSet

EVERY = (CIFAR10, CIFAR100, MNIST, FashionMNIST, STL10, SVHN)
SIZES = {"pretrain": 4, "train": 4, "test": 2}
RNG = np.random.default_rng(0)
RGB = {"train": RNG.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8), "test": RNG.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)}
GRAY = {"train": RNG.integers(0, 256, (4, 28, 28), dtype=np.uint8), "test": RNG.integers(0, 256, (2, 28, 28), dtype=np.uint8)}
LABELS = {"train": [3, 0, 9, 1], "test": [2, 0]}


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """The urls that were asked for, in vain."""
    asked = []

    def refuse(request):
        asked.append(request.full_url)
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    for dataset in EVERY:
        monkeypatch.setattr(dataset, "sizes", SIZES)
    return asked


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar10(root: Path, monkeypatch) -> Path:
    """Five training files, one of which holds all the images, and the archive with all files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = {f"data_batch_{n + 1}": (RGB["train"][n : n + 1], LABELS["train"][n : n + 1]) for n in range(4)}
    batches |= {"data_batch_5": (RGB["train"][4:], []), "test_batch": (RGB["test"], LABELS["test"])}
    for name, (images, labels) in batches.items():
        content = pickle.dumps({"data": images.reshape(-1, 3072), "labels": labels}, protocol=2)
        assert b"\x89\x88\x87" in content
        (folder / name).write_bytes(content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87"))  # 0 and 1, as Python 2 wrote them: NumPy warns
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


def write_mnist(raw: Path, source, monkeypatch) -> None:
    """The four files, packed."""
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = GRAY[split], LABELS[split]
        idx3 = struct.pack(">IIII", 0x0803, *images.shape) + images.tobytes()
        idx1 = struct.pack(">II", 0x0801, len(labels)) + bytes(labels)
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx3))
        (raw / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx1))
    monkeypatch.setattr(source, "resources", [(name, md5(raw / name)) for name, _ in source.resources])


def write_stl10(root: Path, monkeypatch) -> dict[str, np.ndarray]:
    """Images are stored channel by channel, column by column; labels count from 1."""
    folder = root / "stl10_binary"
    folder.mkdir()
    images = {name: RNG.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8) for name, n in (("train", 4), ("test", 2), ("unlabeled", 4))}
    for name, pixels in images.items():
        (folder / f"{name}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
    for split, labels in LABELS.items():
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(tv.STL10, name, [[file, md5(folder / file)] for file, _ in getattr(tv.STL10, name)])
    return images


def write_svhn(root: Path, monkeypatch) -> None:
    """Images are (H, W, C, N); the digit 0 has the label 10."""
    for split in ("train", "test"):
        path = root / f"{split}_32x32.mat"
        labels = [label or 10 for label in LABELS[split]]
        scipy.io.savemat(path, {"X": RGB[split].transpose(2, 3, 1, 0), "y": np.array(labels, dtype=np.uint8)[:, None]})
        monkeypatch.setitem(tv.SVHN.split_list, split, [tv.SVHN.split_list[split][0], path.name, md5(path)])


def assert_holds(data: TorchvisionSet, images: dict[str, np.ndarray], classes: tuple[str, ...]) -> None:
    """All splits are as written; ``pretrain`` is ``train`` unless there is ``unlabeled``."""
    assert data.available()
    for split in ("train", "test"):
        loaded = data.load(split)
        assert loaded.pixels is not None
        assert loaded.labels is not None
        assert np.array_equal(loaded.pixels.numpy(), images[split])
        assert loaded.labels.tolist() == LABELS[split]
        assert loaded.labels.dtype == torch.int64
        assert (loaded.classes, loaded.image) == (classes, data.image())
    pretrain = data.load("pretrain")
    assert pretrain.pixels is not None
    assert np.array_equal(pretrain.pixels.numpy(), images.get("unlabeled", images["train"]))
    assert (pretrain.labels, pretrain.classes) == (None, ())


@pytest.mark.parametrize("download", [False, True])
def test_cifar10(tmp_path, monkeypatch, download, downloads):
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    assert_holds(CIFAR10(root=str(tmp_path), download=download), RGB, tuple("abcdefghij"))
    assert downloads == []


def test_cifar100(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch)
    assert_holds(CIFAR100(root=str(tmp_path)), RGB, tuple(f"fine{n}" for n in range(100)))


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
@pytest.mark.parametrize("download", [False, True])
def test_mnist(tmp_path, monkeypatch, dataset, download, downloads):
    name = dataset.__name__
    write_mnist(tmp_path / name / "raw", getattr(tv, name), monkeypatch)
    assert [class_.lower().split(" - ")[0] for class_ in getattr(tv, name).classes] == [class_.lower() for class_ in dataset.classes]
    assert_holds(
        dataset(root=str(tmp_path), download=download), {split: images[:, None] for split, images in GRAY.items()}, dataset.classes
    )
    assert downloads == []


def test_stl10(tmp_path, monkeypatch):
    images = write_stl10(tmp_path, monkeypatch)
    assert_holds(STL10(root=str(tmp_path)), images, ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"))


def test_svhn(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    assert_holds(SVHN(root=str(tmp_path)), RGB, tuple("0123456789"))


def test_an_archive_in_its_place_is_unpacked_even_without_download(tmp_path, monkeypatch, downloads):
    shutil.rmtree(write_cifar10(tmp_path, monkeypatch))
    assert_holds(CIFAR10(root=str(tmp_path), download=False), RGB, tuple("abcdefghij"))
    assert downloads == []


def test_a_failed_download_says_which_file_to_put_where(tmp_path, downloads):
    data = CIFAR10(root=str(tmp_path / "data"))
    assert not data.available()
    with pytest.raises(DataError) as caught:
        data.load("train")
    folder, url = tmp_path / "data", tv.CIFAR10.url
    assert str(caught.value) == (
        f"CIFAR10 is not in {folder}, and could not be downloaded (<urlopen error no route to host>); put cifar-10-python.tar.gz from {url} "
        f"into {folder}, or set root, or the environment variable SSLKIT_DATA, to the folder that has them"
    )
    assert downloads == [url]


@pytest.mark.parametrize(
    ("dataset", "names", "folder"),
    [
        (CIFAR100, ["cifar-100-python.tar.gz"], ""),
        (STL10, ["stl10_binary.tar.gz"], ""),
        (SVHN, ["train_32x32.mat", "test_32x32.mat"], ""),
        (
            MNIST,
            [f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")],
            "MNIST/raw",
        ),
        (FashionMNIST, ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"], "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test", "pretrain"])
def test_every_set_names_its_files(tmp_path, dataset, names, folder, split):
    with pytest.raises(DataError, match=f"{dataset.__name__} is not in .*, and could not be downloaded .*no route to host") as caught:
        dataset(root=str(tmp_path)).load(split)
    assert all(name in str(caught.value) for name in names)
    assert f"into {tmp_path / folder}, or set root" in str(caught.value)


def test_without_download_nothing_is_asked_of_the_network(tmp_path, downloads):
    with pytest.raises(DataError, match=re.escape(f"CIFAR10 is not in {tmp_path}, and download = false; put cifar-10-python.tar.gz")):
        CIFAR10(root=str(tmp_path), download=False).load("train")
    assert downloads == []


def test_a_damaged_archive_is_named(tmp_path, monkeypatch):
    shutil.rmtree(write_cifar10(tmp_path, monkeypatch))
    with (tmp_path / "cifar-10-python.tar.gz").open("ab") as archive:
        archive.write(b"?")
    data = CIFAR10(root=str(tmp_path), download=False)
    assert not data.available()
    with pytest.raises(DataError, match=re.escape("(cifar-10-python.tar.gz: wrong checksum), and download = false")):
        data.load("test")


def test_unpacked_files_that_were_cut_off_are_to_be_deleted(tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    write_mnist(raw, tv.MNIST, monkeypatch)
    MNIST(root=str(tmp_path)).load("train")
    (raw / "train-images-idx3-ubyte").write_bytes((raw / "train-images-idx3-ubyte").read_bytes()[:1000])
    with pytest.raises(
        DataError, match=rf"MNIST: the files cannot be read \(.*\); delete train-images-idx3-ubyte, .* in {raw} and start again"
    ):
        MNIST(root=str(tmp_path)).load("train")


def test_a_wrong_number_of_images_is_refused(tmp_path, monkeypatch):
    write_cifar100(tmp_path, monkeypatch)
    monkeypatch.setattr(CIFAR100, "sizes", SIZES | {"test": 3})
    with pytest.raises(
        DataError, match=r"CIFAR100: test is incomplete; found 2; allowed: 3 images; delete train, test, meta in .* and start"
    ):
        CIFAR100(root=str(tmp_path)).load("test")


def test_the_folder_comes_from_root_then_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("SSLKIT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert CIFAR10().folder == tmp_path / ".cache" / "sslkit"
    monkeypatch.setenv("SSLKIT_DATA", "~/sets")
    assert CIFAR10().folder == tmp_path / "sets"
    assert CIFAR10(root="here").folder == Path.cwd() / "here"


def test_an_empty_root_is_refused():
    with pytest.raises(OptionError, match="root: must be a folder; found ''; leave it out for the default"):
        CIFAR10(root="")


def test_image_reads_nothing(tmp_path):
    data = CIFAR10(root=str(tmp_path / "nowhere"))
    assert data.image()[:3] == (32, 32, "rgb")
    assert np.array(data.image().mean) * 255 == pytest.approx([125.3, 123.0, 113.9])
    assert np.array(data.image().std) * 255 == pytest.approx([63.0, 62.1, 66.7])
    for dataset in EVERY:
        spec = dataset().image()
        assert len(spec.mean) == len(spec.std) == spec.num_chs
    assert not (tmp_path / "nowhere").exists()
