import json
import struct
from pathlib import Path

import pytest
import torch

import sslkit.engine.tensor_file as module
from sslkit import ArtifactError
from sslkit.engine.tensor_file import load_tensors, save_tensors


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


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_rubbish(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"a": torch.zeros(4)}, {"step": 1})

    def fail(beside: object, *rest: object, **_options: object) -> None:
        for target in (beside, *rest):
            if isinstance(target, Path) and target != path:
                target.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(OSError, match="no space left on device"):
        save_tensors(path, {"a": torch.ones(4)}, {"step": 2})
    tensors, state = load_tensors(path)
    assert torch.equal(tensors["a"], torch.zeros(4))
    assert state == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


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
    with pytest.raises(ArtifactError, match=r"file\.safetensors: damaged \(.*\); remove it to start the stage over"):
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
