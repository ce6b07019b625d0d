"""Folders of small images, and what is found in them."""

import re
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from sslkit.contract.images import Color
from sslkit.data import image_file
from sslkit.data.canvas import Canvas, Fit
from sslkit.data.folder_scan import FolderScan, ImageFile


def make(root: Path, *paths: str) -> None:
    """Images of 4 x 4 pixels whose red is the number in their name."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (int(re.sub(r"\D", "", Path(path).stem) or 0), 0, 0)).save(root / path)


def in_classes(split: str, *names: str, num: int = 2) -> list[str]:
    """``train/cat/0.png`` ..."""
    return [f"{split}/{name}/{number}.png".removeprefix("/") for name in names for number in range(num)]


def find_images(folder: Path) -> list[ImageFile]:
    return list(FolderScan()[folder].images)


def decode(
    path: Path,
    size: int | tuple[int, int],
    color: Color | None,
    *,
    num_chs: int = 0,
    fit: Fit = "crop",
    window: tuple[float, float] | None = None,
    **options: Any,
) -> Tensor:
    """A file on a canvas."""
    height, width = (size, size) if isinstance(size, int) else size
    num_chs = num_chs or (3 if color == "rgb" else 1)
    return image_file.decode(path, Canvas(height, width, color, num_chs, fit, window), **options)
