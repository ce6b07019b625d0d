import os
import re
import socket
from pathlib import Path

import pytest

from sslkit.contract.errors import DataError
from sslkit.data.image_file import open_regular
from tests.data.other_user import as_nobody, shared_folder
from tests.recipes import refusal

LEAVE = "leave images alone during a run:"


def refused(path: Path, num_bytes: int | None = None) -> str:
    return refusal(DataError, open_regular, path, num_bytes).replace(f"{path.parent}{os.sep}", "")


def test_a_file_and_a_link_to_one_are_opened_at_their_beginning(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in "ab":
        with open_regular(tmp_path / name, 5) as file:
            assert file.read() == b"hello"


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # in the working folder, as a socket's name may not be long


@pytest.mark.parametrize(
    ("make", "message"),
    [
        # Nor is a writer waited for.
        (os.mkfifo, 'x.jpg is a named pipe, not a file; remove or rename it, or set on_error = "skip" in [data]'),
        (bind_socket, "x.jpg is a socket, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "x.jpg is a device, not a file"),
        (Path.mkdir, "x.jpg is a folder, not a file"),
        (
            lambda path: path.symlink_to("nowhere.jpg"),
            'x.jpg is a link to nothing; repair or delete it, or set on_error = "skip" in [data]',
        ),
        (lambda path: path.symlink_to(path), "x.jpg cannot be read (Too many levels of symbolic links); make it readable, delete it"),
        (lambda _: None, f"x.jpg is gone: it was there when the folder was scanned; {LEAVE} put the file back, or start over with --fresh"),
    ],
    ids=["pipe", "socket", "device", "folder", "link to nothing", "link to itself", "gone"],
)
def test_what_is_no_file_is_named(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x.jpg")
    assert refused(tmp_path / "x.jpg").startswith(message)


@pytest.mark.parametrize("content", [b"", b"hell", b"hello!"])
def test_a_file_of_another_length_has_changed(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert refused(tmp_path / "x.jpg", 5) == (
        f"x.jpg has changed since the folder was scanned; found '{len(content)} bytes'; allowed: 5 bytes, as then;"
        f" {LEAVE} put the old file back, or start over with --fresh"
    )


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_file_that_may_not_be_read_is_named(closed):
    with shared_folder() as folder:
        path = folder / "closed" / "x.jpg"
        path.parent.mkdir()
        path.write_bytes(b"hello")
        (path if closed == "file" else path.parent).chmod(0)
        message = as_nobody(lambda: open_regular(path))
    assert re.match(rf"DataError: {re.escape(str(path))} cannot be read \(Permission denied\); make it readable", message)
