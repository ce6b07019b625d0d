import os
import re
import sys
from pathlib import Path

import pytest

from sslkit.contract.errors import DataError
from sslkit.contract.progress import Count, watching
from sslkit.data.folder_scan import FolderScan, ImageFile, ImageFiles
from tests.data.folders import find_images
from tests.data.other_user import as_nobody, shared_folder


def make(root: Path, *paths: str) -> None:
    """Files of as many bytes as their names have letters."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * len(file.name))


def found(root: Path) -> list[str]:
    return [path for path, _ in find_images(root)]


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path):
    images = ["B/4.PnG", "a.webp", "b-1/3.bmp", "b/10.JPEG", "b/2.jpg", "b/c/d/1.png", "c.TIF", "c.gif", "é/ü.jpg"]
    make(tmp_path, *reversed(images), "c.heic", "note.txt", "b/list.csv", "jpg", "x.jpg.txt")
    assert find_images(tmp_path) == [ImageFile(path, len(Path(path).name)) for path in images]


ANY_NAMES = ["a b", "a\nb", "a\r\tb", "\x1b[31mred\x1b[0m", "a'b\"c", "100%s", "-rf", "$(ls)", "<b>&amp;", "é", "猫", "🐈"]
if sys.platform == "linux":  # other systems want file names in UTF-8
    ANY_NAMES.append(os.fsdecode(b"caf\xe9"))


@pytest.mark.parametrize(
    ("paths", "images"),
    [
        ([".hidden.jpg", "a/._b.jpg", ".cache/c.jpg", "a/d.jpg"], ["a/d.jpg"]),
        (["a.jpg/b.png"], ["a.jpg/b.png"]),
        *(([f"{name}/{name}.jpg"], [f"{name}/{name}.jpg"]) for name in ANY_NAMES),
    ],
    ids=["hidden", "a folder named like an image", *map(ascii, ANY_NAMES)],
)
def test_any_name_is_found_but_what_is_hidden(tmp_path, paths, images):
    make(tmp_path, *paths)
    assert found(tmp_path) == images


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "root/a/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "root" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "a" / "up").symlink_to(tmp_path / "root")
    assert found(tmp_path / "root") == ["a/1.jpg", "b/2.jpg", "c/2.jpg"]


def test_a_link_to_nothing_is_listed(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert find_images(tmp_path) == [ImageFile("gone.jpg", -1)]


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
    assert FolderScan()[tmp_path].classes == classes


def test_a_folder_is_scanned_once(tmp_path, monkeypatch):
    make(tmp_path, "dog/1.jpg", "cat/deep/2.jpg")
    read = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: read.append(Path(folder).name) or scandir(folder))
    scan = FolderScan()
    for _ in range(2):
        assert [path for path, _ in scan[tmp_path].images] == ["cat/deep/2.jpg", "dog/1.jpg"]
        assert scan[tmp_path].classes == scan[tmp_path].filled == ("cat", "dog")
    assert sorted(read) == sorted([tmp_path.name, "dog", "cat", "deep"])


def test_images_of_types_that_are_not_read_are_known_and_so_are_folders_without_any(tmp_path):
    make(tmp_path, "a/1.jpg", "a/2.HEIC", "b/deep/3.ppm", "c/4.txt", ".d/5.avif")
    content = FolderScan()[tmp_path]
    assert content.unread == ("a/2.HEIC", "b/deep/3.ppm")
    assert (content.folders, content.filled) == (("a", "b", "c"), ("a",))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone'} cannot be read; found 'No such file or directory'")):
        find_images(tmp_path / "gone")


def test_links_to_themselves_are_no_folders(tmp_path):
    make(tmp_path, "1.jpg")
    for name in ("a", "a.jpg", "b.txt"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "there").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "there")
    assert find_images(tmp_path) == [ImageFile("1.jpg", 5), ImageFile("a.jpg", -1)]


def test_folders_that_link_to_each_other_end(tmp_path):
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "other").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "me").symlink_to(".")
    assert found(tmp_path) == ["a/1.jpg", "a/other/2.jpg", "b/2.jpg", "b/other/1.jpg"]


def test_folders_may_be_nested_more_deeply_than_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    depth = sys.getrecursionlimit() + 50
    for _ in range(depth):
        Path("d").mkdir()
        os.chdir("d")
    Path("1.jpg").write_bytes(b"x")
    images = find_images(tmp_path)
    Path("1.jpg").unlink()
    for _ in range(depth):  # shutil's way to remove folders is recursive, and pytest's way to tidy up with it
        os.chdir("..")
        Path("d").rmdir()
    assert images == [ImageFile("d/" * depth + "1.jpg", 1)]


def test_what_is_no_file_is_listed_if_it_is_named_like_an_image(tmp_path):
    """Reading it says what it is; that nothing is opened shows in that this test ends."""
    make(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    assert found(tmp_path) == ["1.jpg", "device.png", "pipe.jpg"]


@pytest.mark.parametrize("mode", [0o000, 0o300])
def test_a_folder_that_may_not_be_read_is_named(mode):
    with shared_folder() as folder:
        make(folder, "dog/1.jpg", "cat/2.jpg")
        (folder / "dog").chmod(mode)
        message = as_nobody(lambda: find_images(folder))
        linked = folder / "elsewhere"
        linked.mkdir()
        (linked / "dog").symlink_to(folder / "dog")
        through_a_link = as_nobody(lambda: find_images(linked))
    problem = "cannot be read; found 'Permission denied'; make it readable or move it away"
    assert message == f"DataError: {folder / 'dog'} {problem}"
    assert through_a_link == f"DataError: {linked / 'dog'} {problem}"


def test_files_that_may_not_be_looked_at_are_listed():
    """In a folder that may be listed and not entered."""
    with shared_folder() as folder:
        make(folder, "1.jpg", "closed/2.jpg", "closed/note.txt")
        (folder / "3.jpg").symlink_to(folder / "closed" / "2.jpg")
        (folder / "closed").chmod(0o444)
        listed = as_nobody(lambda: [tuple(file) for file in find_images(folder)])
    assert listed == str([("1.jpg", 5), ("3.jpg", -1), ("closed/2.jpg", -1)])


def test_what_is_counted_is_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr("sslkit.contract.progress._SECONDS", 0.0)
    make(tmp_path, "a/1.jpg", "a/note.txt", "2.jpg")
    counts: list[Count] = []
    with watching(counts.append):
        find_images(tmp_path)
    what = f"scanning images in {tmp_path}"
    assert counts == [Count(what, 1, None), Count(what, 2, None), Count(what, 2, None, finished=True)]


def test_a_compact_list_of_files_is_a_list():
    files = [ImageFile("é/1.png", 7), ImageFile(os.fsdecode(b"caf\xe9.jpg"), -1), ImageFile("x" * 200, 2**40)]
    compact = ImageFiles(files)
    assert list(compact) == files
    assert [compact[0], compact[-1], compact[1:], len(compact)] == [files[0], files[-1], files[1:], 3]
    assert list(compact.encoded())[1] == (b"caf\xe9.jpg", -1)
    with pytest.raises(IndexError):
        compact[3]
    assert list(ImageFiles([])) == []
