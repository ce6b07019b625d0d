import errno
import os
from pathlib import Path

import pytest

from sslkit import ArtifactError, StorageError
from sslkit.storage.atomic import append_line, find_unfinished, refuse_links, remove_unfinished, writing, written_whole
from tests.run.disks import file_sizes_limited, fill, make_read_only, small_disk


def write(path: Path, text: str) -> None:
    with written_whole(path) as file:
        file.write_text(text)


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "file"
    write(path, "old")
    with written_whole(path) as file:
        assert file.read_text() == ""
        file.write_text("new")
        assert path.read_text() == "old"
        assert file.parent == path.parent, "a rename must not leave the file system"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_have_the_permissions_of_any_other(tmp_path: Path):
    write(tmp_path / "ours", "x")
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_fails_half_way_leaves_the_old_file_alone(error: type[BaseException], tmp_path: Path):
    path = tmp_path / "file"
    write(path, "old")

    def fail_half_way() -> None:
        with written_whole(path) as file:
            file.write_text("half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_files_place_is_replaced_not_followed(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    write(tmp_path / "file", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


def test_a_line_is_not_added_through_a_link(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match=r"log: cannot be written, it is a link; remove the link"):
        append_line(tmp_path / "log", "line")
    assert (tmp_path / "victim").read_text() == "mine"


def test_lines_are_added(tmp_path: Path):
    for line in ("one", "zwei ü"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwei ü\n"


def test_a_full_disk_is_said_to_be_full_and_keeps_the_old_file(tmp_path: Path):
    with small_disk(tmp_path / "disk", size="256k") as disk:
        path = disk / "file"
        write(path, "old" * 1000)
        filler = fill(disk)
        with pytest.raises(
            StorageError, match=r"file: cannot be written, the disk is full; free some space; what was written before is still"
        ):
            write(path, "new" * 10_000)
        with pytest.raises(StorageError, match="log: cannot be written, the disk is full"):
            append_line(disk / "log", "x" * 10_000)
        assert path.read_text() == "old" * 1000
        assert {entry.name for entry in disk.iterdir()} <= {"file", "filler", "log"}
        filler.unlink()
        write(path, "new" * 10_000)


def test_a_read_only_disk_is_said_to_be_read_only(tmp_path: Path):
    with small_disk(tmp_path / "disk", size="256k") as disk:
        write(disk / "file", "old")
        make_read_only(disk)
        with pytest.raises(
            StorageError, match=r"file: cannot be written, the file system is read-only; make it writable, or choose another"
        ):
            write(disk / "file", "new")
        assert (disk / "file").read_text() == "old"


def test_a_limit_on_file_sizes_is_named(tmp_path: Path):
    with file_sizes_limited(100), pytest.raises(StorageError, match=r"the file is larger than this account may write; raise the limit"):
        write(tmp_path / "file", "x" * 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"gone/file: cannot be written, its folder is gone; was the run's folder removed or moved\?"):
        write(tmp_path / "gone" / "file", "x")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_keep_the_systems_words():
    with (
        pytest.raises(StorageError, match=r"^file: cannot be written, Text file busy; mend that; what was written before"),
        writing(Path("file")),
    ):
        raise OSError(errno.ETXTBSY, os.strerror(errno.ETXTBSY))
    assert StorageError("x").exit_code == 1


def test_links_are_refused(tmp_path: Path):
    folder = tmp_path / "folder"
    refuse_links(folder)  # not there yet
    folder.mkdir()
    (folder / "file").touch()
    refuse_links(folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(
        ArtifactError, match=rf"^{tmp_path / 'link'}: is a link, which a run writes into only if it is the run's whole folder; remove"
    ):
        refuse_links(tmp_path / "link")
    (folder / "dangling").symlink_to("nowhere")
    with pytest.raises(ArtifactError, match=rf"^{folder / 'dangling'}: is a link"):
        refuse_links(folder)


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path):
    (tmp_path / "tables").mkdir()
    kept = {"results.json", "mine.tmp", "mine.tmp-1", ".tmp", ".tmp-mine", "tables"}
    for name in (*kept - {"tables"}, "results.json.tmp-0123456789abcdef", "tables/results.csv.tmp-0123456789abcdef", "tables/.tmpUclZ0z"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == kept


def test_what_is_being_written_is_called_so(tmp_path: Path):
    with written_whole(tmp_path / "file") as file:
        assert find_unfinished(tmp_path) == [file]
