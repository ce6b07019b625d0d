"""Every dataset is read from small files in its true format. Nothing is fetched."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from numpy.exceptions import VisibleDeprecationWarning

from sslkit.contract.errors import DataError, OptionError
from sslkit.data import torchvision_sets
from sslkit.data.torchvision_sets import CIFAR10, CIFAR100, DIGITS, MNIST, STL10, SVHN, FashionMNIST, TorchvisionSet
from tests.data.torchvision_files import GRAY, LABELS, RGB, SIZES, STL, WRITERS, write_cifar10, write_cifar100, write_mnist

pytestmark = pytest.mark.usefixtures("downloads")

CONTENT = {
    CIFAR10: (RGB, tuple("abcdefghij")),
    CIFAR100: (RGB, tuple(f"fine{n}" for n in range(100))),
    MNIST: (GRAY, DIGITS),
    FashionMNIST: (GRAY, FashionMNIST.classes),
    STL10: (STL, ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")),
    SVHN: (RGB, DIGITS),
}


def assert_holds(data: TorchvisionSet) -> None:
    """All splits are as written; ``pretrain`` is ``train`` unless there is ``unlabeled``."""
    images, classes = CONTENT[type(data)]
    assert data.available()
    for split in ("train", "test"):
        loaded = data.load(split)
        assert np.array_equal(loaded.pixels.numpy(), images[split])
        assert loaded.labels.tolist() == LABELS[split]
        assert loaded.labels.dtype == torch.int64
        assert (loaded.classes, loaded.image) == (classes, data.image())
    pretrain = data.load("pretrain")
    assert np.array_equal(pretrain.pixels.numpy(), images.get("unlabeled", images["train"]))
    assert (pretrain.labels, pretrain.classes) == (None, ())


@pytest.mark.parametrize("dataset", WRITERS)
@pytest.mark.parametrize("download", [False, True])
def test_every_set_is_read_from_its_files(tmp_path, monkeypatch, dataset, download, downloads):
    WRITERS[dataset](tmp_path, monkeypatch)
    (tmp_path / "cifar-10-python.tar.gz").unlink(missing_ok=True)
    assert_holds(dataset(root=str(tmp_path), download=download))
    assert downloads == []


def test_what_numpy_says_of_pickles_of_python_2_is_not_shown(tmp_path, monkeypatch):
    class Unpickler(torchvision_sets._ArrayUnpickler):
        def load(self):
            warnings.warn("dtype(): align should be passed as Python or NumPy boolean", VisibleDeprecationWarning, stacklevel=2)
            return super().load()

    write_cifar10(tmp_path, monkeypatch)
    monkeypatch.setattr(torchvision_sets, "_ArrayUnpickler", Unpickler)
    assert len(CIFAR10(root=str(tmp_path)).load("train")) == 4


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_classes_are_those_of_torchvision(dataset):
    theirs = getattr(tv, dataset.__name__).classes
    assert [name.lower().split(" - ")[0] for name in theirs] == [name.lower() for name in dataset.classes]


def test_an_archive_in_its_place_is_unpacked_even_without_download(tmp_path, monkeypatch, downloads):
    shutil.rmtree(write_cifar10(tmp_path, monkeypatch))
    assert_holds(CIFAR10(root=str(tmp_path), download=False))
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
    raw = write_mnist(tmp_path, monkeypatch)
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
    for dataset in WRITERS:
        spec = dataset().image()
        assert len(spec.mean) == len(spec.std) == spec.num_chs
    assert not (tmp_path / "nowhere").exists()
