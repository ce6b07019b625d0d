"""Files of the well-known datasets that somebody has tampered with: nothing in them runs, and nothing leaves the folder."""

import hashlib
import io
import pickle
import re
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as tv

from sslkit.contract.errors import DataError
from sslkit.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, STL10, SVHN, FashionMNIST, TorchvisionSet
from tests.data.torchvision_files import GRAY, WRITERS, md5, write_cifar10

pytestmark = pytest.mark.usefixtures("downloads")


class Trap:
    """Unpickling this makes a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self):
        return open, (str(self.sprung), "w")


@pytest.fixture
def sprung(tmp_path) -> Path:
    """What a trap leaves."""
    return tmp_path / "sprung"


def set_trap(path: Path, sprung: Path) -> None:
    path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    pickle.loads(path.read_bytes()).close()
    assert sprung.exists(), "the trap works"
    sprung.unlink()


PLACES = [
    *((CIFAR10, f"cifar-10-batches-py/{name}") for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta")),
    *((CIFAR100, f"cifar-100-python/{name}") for name in ("train", "test", "meta")),
    *((STL10, f"stl10_binary/{name}.bin") for name in ("train_X", "train_y", "test_X", "test_y", "unlabeled_X")),
    *((SVHN, f"{split}_32x32.mat") for split in ("train", "test")),
]


@pytest.mark.parametrize(("dataset", "place"), PLACES)
@pytest.mark.parametrize("download", [False, True])
def test_a_pickle_in_place_of_a_file_is_not_unpickled(tmp_path, monkeypatch, sprung, dataset, place, download):
    root = tmp_path / "data"
    root.mkdir()
    WRITERS[dataset](root, monkeypatch)
    (root / "cifar-10-python.tar.gz").unlink(missing_ok=True)
    set_trap(root / place, sprung)
    data = dataset(root=str(root), download=download)
    assert not data.available()
    split = "test" if "test" in place else "pretrain" if "unlabeled" in place else "train"
    with pytest.raises(DataError, match=rf"^{dataset.__name__} is not in .* \({Path(place).name}: wrong checksum\), and "):
        data.load(split)
    for other in ("train", "test", "pretrain"):  # SVHN has a file a split, and another one may be read
        with suppress(DataError):
            data.load(other)
    assert not sprung.exists()


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_pickle_in_place_of_a_file_without_a_checksum_is_not_unpickled(tmp_path, monkeypatch, sprung, dataset, name):
    raw = WRITERS[dataset](tmp_path, monkeypatch)
    dataset(root=str(tmp_path)).load("train")
    set_trap(raw / name, sprung)
    with pytest.raises(DataError, match=f"{dataset.__name__}: the files cannot be read"):
        dataset(root=str(tmp_path)).load("train")
    assert not sprung.exists()


@pytest.mark.parametrize("dataset", [MNIST, FashionMNIST])
def test_pickles_of_older_torchvisions_are_not_opened(tmp_path, monkeypatch, sprung, dataset):
    WRITERS[dataset](tmp_path, monkeypatch)
    (tmp_path / dataset.__name__ / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        set_trap(tmp_path / dataset.__name__ / "processed" / name, sprung)
    images = dataset(root=str(tmp_path)).load("test")
    assert np.array_equal(images.pixels.numpy(), GRAY["test"])
    assert not sprung.exists()


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100, STL10])
def test_an_archive_with_a_wrong_checksum_is_not_unpacked(tmp_path, dataset):
    files = dataset(root=str(tmp_path)).files()
    with tarfile.open(next(iter(files.archives)), "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"{next(iter(files.unpacked)).parent.name}/unpacked"))
    with pytest.raises(DataError, match="wrong checksum"):
        dataset(root=str(tmp_path)).load("train")
    assert not list(tmp_path.rglob("unpacked"))


def test_a_file_that_is_exchanged_after_it_was_checked_is_not_unpickled(tmp_path, monkeypatch, sprung):
    """What is checked are the bytes that are unpickled, not a file that is opened again."""
    write_cifar10(tmp_path / "data", monkeypatch)
    read = Path.read_bytes

    def exchange(path: Path) -> bytes:
        if path.name == "data_batch_2":
            path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", exchange)
    with pytest.raises(DataError, match="data_batch_2: wrong checksum"):
        CIFAR10(root=str(tmp_path / "data"), download=False).load("train")
    assert not sprung.exists()


def test_a_pickle_with_the_right_checksum_still_makes_nothing_but_arrays(tmp_path, monkeypatch, sprung):
    """MD5 is no longer beyond forging."""
    root = tmp_path / "data"
    write_cifar10(root, monkeypatch)
    path = root / "cifar-10-batches-py" / "data_batch_1"
    set_trap(path, sprung)
    checksum = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(tv.CIFAR10, "train_list", [["data_batch_1", checksum], *tv.CIFAR10.train_list[1:]])
    with pytest.raises(DataError, match=r"the files cannot be read \(io\.open is no part of an array\)"):
        CIFAR10(root=str(root), download=False).load("train")
    assert not sprung.exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    return info


MALICIOUS = {
    "a path upwards": [member("../escaped")],
    "a path down and upwards": [member("cifar-10-batches-py/../../escaped")],
    "a link upwards": [member("link", tarfile.SYMTYPE, "..")],
    "a file through a link": [member("link", tarfile.SYMTYPE, ".."), member("link/escaped")],
    "a link to an absolute path": [member("link", tarfile.SYMTYPE, "/etc/passwd")],
    "a hard link": [member("link", tarfile.LNKTYPE, "../precious")],
    "a device": [member("device", tarfile.CHRTYPE)],
    "a named pipe": [member("pipe", tarfile.FIFOTYPE)],
}


def pack(root: Path, members: list[tarfile.TarInfo], monkeypatch, dataset: type[TorchvisionSet]) -> Path:
    """An archive whose checksum is the published one, as far as torchvision knows."""
    root.mkdir(exist_ok=True)
    path = next(iter(dataset(root=str(root)).files().archives))
    with tarfile.open(path, "w:gz") as archive:
        for info in members:
            info.size = 5 if info.isreg() else 0
            archive.addfile(info, io.BytesIO(b"hello"))
    monkeypatch.setattr(getattr(tv, dataset.__name__), "tgz_md5", md5(path))
    return path


def everything(folder: Path) -> dict[str, str]:
    """All there is in a folder, with hashes of contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path)] = hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "-"
    return found


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100, STL10])
@pytest.mark.parametrize("kind", MALICIOUS)
def test_an_archive_cannot_leave_its_folder(tmp_path, monkeypatch, dataset, kind):
    (tmp_path / "precious").write_text("mine")
    path = pack(tmp_path / "data", MALICIOUS[kind], monkeypatch, dataset)
    before = everything(tmp_path)
    with pytest.raises(DataError, match=re.escape(f"{dataset.__name__}: the files cannot be read (")) as caught:
        dataset(root=str(tmp_path / "data")).load("train")
    assert re.search(r"outside the destination|is a special file|is a link to an absolute path", str(caught.value))
    assert str(caught.value).endswith(f"delete {path.name} in {path.parent} and start again")
    assert everything(tmp_path) == before


def test_an_absolute_path_ends_up_in_the_folder(tmp_path, monkeypatch):
    """As tar itself does it."""
    outside = tmp_path / "escaped"
    pack(tmp_path / "data", [member(str(outside))], monkeypatch, CIFAR10)
    with pytest.raises(DataError, match="CIFAR10: the files cannot be read"):
        CIFAR10(root=str(tmp_path / "data")).load("train")
    assert not outside.exists()


def test_python_is_left_as_it_was(tmp_path, monkeypatch):
    before = vars(tarfile.TarFile).get("extraction_filter")
    shutil.rmtree(write_cifar10(tmp_path, monkeypatch))
    CIFAR10(root=str(tmp_path)).load("train")
    with pytest.raises(DataError):
        CIFAR10(root=str(tmp_path / "nowhere"), download=False).load("train")
    assert vars(tarfile.TarFile).get("extraction_filter") is before
    assert (tmp_path / "cifar-10-batches-py").is_dir()
