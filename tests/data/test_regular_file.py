import os
import re
import socket
from pathlib import Path

import pytest

from sslkit.contract.errors import DataError
from sslkit.data.image_file import open_regular
from tests.data.other_user import as_nobody, shared_folder


def refused(path: Path, num_bytes: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_regular(path, num_bytes)
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


def test_a_file_and_a_link_to_one_are_opened_at_their_beginning(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for name in "ab":
        with open_regular(tmp_path / name, 5) as file:
            assert file.read() == b"hello"


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert refused(tmp_path / "x.jpg") == 'x.jpg is a named pipe, not a file; remove or rename it, or set on_error = "skip" in [data]'


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x.jpg")
        assert refused(tmp_path / "x.jpg").startswith("x.jpg is a socket, not a file")


def test_a_device_that_never_ends_is_refused(tmp_path):
    (tmp_path / "x.jpg").symlink_to("/dev/zero")
    assert refused(tmp_path / "x.jpg").startswith("x.jpg is a device, not a file")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    assert refused(tmp_path / "x.jpg").startswith("x.jpg is a folder, not a file")


def test_a_file_that_is_gone_is_told_from_a_link_to_nothing(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert refused(tmp_path / "link.jpg") == 'link.jpg is a link to nothing; repair or delete it, or set on_error = "skip" in [data]'
    assert refused(tmp_path / "x.jpg") == (
        "x.jpg is gone: it was there when the folder was scanned;"
        " leave images alone during a run: put the file back, or start over with --fresh"
    )


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "x.jpg").symlink_to(tmp_path / "x.jpg")
    assert refused(tmp_path / "x.jpg").startswith("x.jpg cannot be read (Too many levels of symbolic links); make it readable, delete it")


@pytest.mark.parametrize("content", [b"", b"hell", b"hello!"])
def test_a_file_of_another_length_has_changed(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    assert refused(tmp_path / "x.jpg", 5) == (
        f"x.jpg has changed since the folder was scanned; found '{len(content)} bytes'; allowed: 5 bytes, as then;"
        " leave images alone during a run: put the old file back, or start over with --fresh"
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
