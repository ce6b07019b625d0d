import os
import re
import sys
from pathlib import Path

import pytest

from sslkit.data.image_files import ImageFile, find_classes, find_images
from sslkit.errors import DataError


def make(root: Path, *paths: str) -> None:
    """Files of as many bytes as their names have letters."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * len(file.name))


def naive(root: Path) -> list[ImageFile]:
    suffixes = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
    paths = (path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in suffixes)
    return sorted(ImageFile(path.relative_to(root).as_posix(), path.stat().st_size) for path in paths)


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    make(
        tmp_path,
        "b/2.jpg",
        "b/10.JPEG",
        "b/c/d/1.png",
        "a.webp",
        "b-1/3.bmp",
        "B/4.PnG",
        "é/ü.jpg",
        "note.txt",
        "b/list.csv",
        "jpg",
        "x.jpg.txt",
    )
    assert find_images(tmp_path) == naive(tmp_path)
    assert [path for path, _ in find_images(tmp_path)] == [
        "B/4.PnG",
        "a.webp",
        "b-1/3.bmp",
        "b/10.JPEG",
        "b/2.jpg",
        "b/c/d/1.png",
        "é/ü.jpg",
    ]


def test_what_is_hidden_is_left_alone(tmp_path):
    make(tmp_path, ".hidden.jpg", "a/._b.jpg", ".cache/c.jpg", "a/d.jpg")
    assert find_images(tmp_path) == [ImageFile("a/d.jpg", 5)]


def test_a_folder_may_be_named_like_an_image(tmp_path):
    make(tmp_path, "a.jpg/b.png")
    assert find_images(tmp_path) == [ImageFile("a.jpg/b.png", 5)]


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "root/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert [path for path, _ in find_images(tmp_path / "root")] == ["a/1.jpg", "b/2.jpg", "c/2.jpg"]


def test_a_link_to_nothing_is_listed(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert find_images(tmp_path) == [ImageFile("gone.jpg", -1)]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want file names in UTF-8")
def test_names_in_another_encoding_are_found(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    make(tmp_path, name)
    assert find_images(tmp_path) == [ImageFile(name, 8)]


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["dog/1.jpg", "cat/deep/er/2.jpg", "empty/note.txt", ".git/3.jpg", "readme.txt"], ("cat", "dog")),
        (["dog/1.jpg", "cat/2.jpg", "stray.jpg"], ()),
        (["images/1.jpg", "images/2.jpg", "labels/1.txt"], ()),
        (["1.jpg", "2.jpg"], ()),
        ([], ()),
    ],
)
def test_classes_are_two_or_more_folders_with_no_image_beside_them(tmp_path, paths, classes):
    make(tmp_path, *paths)
    assert find_classes(tmp_path) == classes


@pytest.mark.parametrize("search", [find_images, find_classes])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, search):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone'} cannot be read; found 'No such file or directory'")):
        search(tmp_path / "gone")
