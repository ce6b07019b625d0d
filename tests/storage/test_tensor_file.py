import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sslkit import ArtifactError, StorageError
from sslkit.storage.atomic import remove_unfinished
from sslkit.storage.tensor_file import load_tensors, save_tensors
from tests.run.disks import small_disk


def test_tensors_of_every_kind_come_back(tmp_path: Path):
    shared = torch.randn(3, 4)
    strided = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {
        "tied.a": shared,
        "tied.b": shared,
        "transposed": shared.T,
        "scalar": torch.tensor(3.5),
        "count": torch.tensor(2**40),
        "flags": torch.tensor([True, False, True]),
        "state": torch.arange(7, dtype=torch.uint8),
        "half": torch.randn(5).bfloat16(),
        "empty": torch.empty(0, 3),
        "channels_last": strided,
        "slice": torch.arange(10)[2:5],
        "weight": torch.nn.Parameter(torch.ones(2)),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    (tmp_path / "new").mkdir()
    save_tensors(tmp_path / "new" / "file.safetensors", tensors, {"step": 3, "nested": {"a": [1, 2.5, None, True]}})
    loaded, state = load_tensors(tmp_path / "new" / "file.safetensors")
    assert state == {"step": 3, "nested": {"a": [1, 2.5, None, True]}}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].is_contiguous()
        assert torch.equal(loaded[name].nan_to_num(), tensor.nan_to_num())
    assert strided.is_contiguous(memory_format=torch.channels_last)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.safetensors"]


def test_there_may_be_no_state(tmp_path: Path):
    save_tensors(tmp_path / "file", {"a": torch.ones(1)})
    assert load_tensors(tmp_path / "file")[1] == {}


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    with small_disk(tmp_path / "disk", size="256k") as disk:
        path = disk / "file.safetensors"
        save_tensors(path, {"a": torch.zeros(4)}, {"step": 1})
        with pytest.raises(StorageError, match=r"file\.safetensors: cannot be written, the disk is full"):
            save_tensors(path, {"a": torch.ones(100_000)}, {"step": 2})
        tensors, state = load_tensors(path)
        assert torch.equal(tensors["a"], torch.zeros(4))
        assert state == {"step": 1}
        assert list(disk.iterdir()) == [path]


def test_a_folder_that_is_gone_does_not_come_back(tmp_path: Path):
    with pytest.raises(StorageError, match="its folder is gone"):
        save_tensors(tmp_path / "gone" / "file.safetensors", {"a": torch.zeros(4)})
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_permissions_of_any_other(tmp_path: Path):
    save_tensors(tmp_path / "ours", {"a": torch.ones(1)})
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


WRITES_FOR_EVER = """
import sys, torch
from pathlib import Path
from sslkit.storage.tensor_file import save_tensors
while True:
    save_tensors(Path(sys.argv[1]), {"a": torch.ones(20_000_000)})
"""


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_the_next_start_does_not_remove(tmp_path: Path):
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(tmp_path / "file")])
        while not any(path.name != "file" and path.stat().st_size > 0 for path in tmp_path.iterdir()):
            assert process.poll() is None
        process.kill()
        process.wait()
    assert [path for path in tmp_path.iterdir() if path.name != "file"], "killed in mid-write"
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"file"}


def test_equal_content_makes_equal_bytes(tmp_path: Path):
    files = [tmp_path / str(number) for number in range(8)]
    for path in files:
        save_tensors(path, {"b": torch.ones(3), "a": torch.zeros(2)}, {"x": 1, "y": [1.5, None]})
    assert len({path.read_bytes() for path in files}) == 1


def test_every_turned_bit_is_found(tmp_path: Path):
    """All of the file's bits, one by one: lengths, names, shapes, dtypes, values, JSON."""
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor([3])}, {"step": 1, "lr": 0.1})
    expected = load_tensors(path)
    content = path.read_bytes()
    harmless = 0
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            tensors, state = load_tensors(path)
        except ArtifactError:
            continue
        # Blanks of the JSON may become other blanks: then nothing is lost.
        assert state == expected[1]
        assert tensors.keys() == expected[0].keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected[0].items())
        harmless += 1
    assert harmless < 8 * len(content) / 50


def test_a_file_of_others_is_not_taken_for_ours(tmp_path: Path):
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"file\.safetensors: not written by this version of sslkit"):
        load_tensors(path)


def test_what_is_not_json_is_refused_before_the_old_file_is_touched(tmp_path: Path):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"a": torch.zeros(4)})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_tensors(path, {"a": torch.ones(4)}, {"step": torch.ones(1)})
    assert torch.equal(load_tensors(path)[0]["a"], torch.zeros(4))
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"missing\.safetensors: no such file"):
        load_tensors(tmp_path / "missing.safetensors")


def _whole(path: Path) -> bytes:
    save_tensors(path, {"a": torch.zeros(64), "b": torch.ones(2)}, {"step": 1})
    return path.read_bytes()


@pytest.mark.parametrize("kept", [0, 7, 40, -1, -300])
def test_a_file_cut_short_is_damaged(kept: int, tmp_path: Path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(_whole(path)[:kept])
    with pytest.raises(ArtifactError, match=r"file\.safetensors: damaged \(.*\); remove the folder .* to run that stage again"):
        load_tensors(path)


def test_a_damaged_header_is_damaged(tmp_path: Path):
    path = tmp_path / "file.safetensors"
    header = json.dumps({"__metadata__": {"sslkit": "{not json"}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ArtifactError, match="damaged"):
        load_tensors(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ArtifactError, match="damaged"):
        load_tensors(path)
