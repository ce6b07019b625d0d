"""A file that libraries complain of while they decode it: the complaint names it, once, in whatever thread or process it is heard."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from sslkit import ImageFolder, Loader
from sslkit.data import cache, image_file
from sslkit.data.cache import OpenedDataset

CPU = torch.device("cpu")
CUT_EXIF = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\x01"
"""Five entries are announced, and the first is cut short."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(image_file, "_shown", set())
    for index in range(6):
        path = tmp_path / "images" / "train" / f"class{index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path, exif=CUT_EXIF if index else b"")
    return tmp_path / "images"


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(("num_workers", "max_bytes"), [(0, 0), (1, 0), (0, 2**30)], ids=["here", "in a worker", "in threads"])
def test_a_warning_names_its_file_and_comes_once(num_workers: int, max_bytes: int, root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "MAX_RESIDENT_BYTES", max_bytes)
    images = OpenedDataset(ImageFolder(root=str(root), image_size=16)).load("pretrain")
    shown = warnings.showwarning
    caught: list[warnings.WarningMessage] = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            assert len(list(Loader(images, batch_size=2, device=CPU, num_workers=num_workers).in_order())) == 3
        caught += found
    (warning,) = caught
    assert str(warning.message).startswith(f"{root}/train/class")
    assert "Corrupt EXIF data" in str(warning.message)
    assert warnings.showwarning is shown


@pytest.mark.usefixtures("root")
def test_what_is_no_file_of_ours_is_shown_as_ever():
    with pytest.warns(RuntimeWarning, match=r"^else$"), image_file.naming_files():
        warnings.warn("else", RuntimeWarning, stacklevel=1)
    with pytest.warns(UserWarning, match=r"^a\.jpg: odd$"), image_file.naming_files(), image_file.decoding(Path("a.jpg")):
        warnings.warn("odd", RuntimeWarning, stacklevel=1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://backend_of.a_notebook", "nonsense"])
def test_a_backend_of_somebody_elses_matplotlib_is_none_of_ours(backend: str, tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from sslkit.cli.preview import write_preview; import sslkit.report.page;"
        "write_preview('rotnet', output=Path('views.png')); assert 'matplotlib.pyplot' not in sys.modules; print(os.environ['MPLBACKEND'])"
    )
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}  # noqa: PTH109
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{backend}\n"), done.stderr
    assert (tmp_path / "views.png").exists() or list(tmp_path.rglob("views.png"))
