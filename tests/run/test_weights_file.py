"""A backbone in one file: what comes back, what is refused, and what a name stands for."""

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sslkit.run.artifacts as module
from sslkit import NIN, ArtifactError, ImageSpec, load_backbone
from sslkit.run.artifacts import (
    ARTIFACT,
    BACKBONE,
    BackboneRecord,
    describe_backbone,
    halve,
    read_weights,
    save_module,
    save_weights,
    widen,
)
from sslkit.storage.json_files import write_json
from sslkit.storage.tensor_file import load_tensors, save_tensors
from sslkit.training.seeds import global_seed

IMAGE = ImageSpec(8, 12, "gray", (0.3,), (0.4,))
OPTIONS: dict[str, Any] = {"num_blocks": 3, "width": 0.05, "pool_after_conv3": False}


def nin(seed: int = 1) -> NIN:
    with global_seed(seed):
        network = NIN(IMAGE, **OPTIONS)
    network(
        torch.rand(4, 1, 8, 12, generator=torch.Generator().manual_seed(seed)), ["conv3"]
    )  # BatchNorm's statistics are no longer round numbers
    return network.eval()


def record(spec: str = "nin", options: dict[str, Any] | None = None) -> dict[str, Any]:
    return describe_backbone(nin(), BackboneRecord(spec, options or OPTIONS))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    save_weights(path, halve(nin().state_dict()), backbone=record(), origin={"commit": "abc"})
    return path


# -------------------------------------------------------------------------------------------------------------- what comes back


def test_weights_are_halved_and_nothing_else():
    state = nin().state_dict()
    halved = halve(state)
    assert list(halved) == list(state)
    small = {name for name, tensor in state.items() if tensor.ndim < 2}
    assert any("running_var" in name for name in small)
    assert any("num_batches_tracked" in name for name in small)
    for name, tensor in state.items():
        if name in small:
            assert halved[name] is tensor
        else:
            assert torch.equal(halved[name], tensor.to(torch.float16))
            assert halved[name].dtype == torch.float16
    assert {name: tensor.dtype for name, tensor in widen(halved).items()} == {name: tensor.dtype for name, tensor in state.items()}


def test_variances_that_half_precision_cannot_hold_survive():
    state = {"bn.running_var": torch.tensor([1e-9, 1e6])}
    assert torch.equal(widen(halve(state))["bn.running_var"], state["bn.running_var"])


def test_a_backbone_comes_back_in_float32_and_eval_mode(file: Path):
    loaded = load_backbone(file)
    assert isinstance(loaded, NIN)
    assert loaded.image == IMAGE
    assert not any(child.training for child in loaded.modules())
    assert all(tensor.dtype == torch.float32 for tensor in loaded.parameters())
    assert all(parameter.requires_grad for parameter in loaded.parameters())  # as after loading a stage's
    images = torch.randint(0, 256, (16, 1, 8, 12), dtype=torch.uint8)
    with torch.no_grad():
        for layer in loaded.layer_names:
            found, expected = loaded.embed(images, layer), nin().embed(images, layer)
            assert (found - expected).abs().max() < 0.01 * expected.abs().max()
            assert not torch.equal(found, expected)  # or nothing was halved


def test_what_is_read_tells_where_it_comes_from(file: Path):
    weights = read_weights(file)
    assert weights.origin == {"commit": "abc"}
    assert weights.backbone == json.loads(json.dumps(record()))


def test_an_object_may_be_given_to_read_into(file: Path):
    mine = nin(seed=2)
    assert load_backbone(file, backbone=mine) is mine
    assert torch.equal(mine.state_dict()["blocks.conv1.0.0.weight"], load_backbone(file).state_dict()["blocks.conv1.0.0.weight"])
    with pytest.raises(ArtifactError, match=r"mine\.safetensors: does not fit NIN \(.+\); build the backbone with the same options$"):
        load_backbone(file, backbone=NIN(IMAGE, num_blocks=3, width=0.1))


def test_the_papers_network_takes_less_than_three_megabytes(tmp_path: Path):
    network = NIN(ImageSpec(32, 32, "rgb", (0.5,) * 3, (0.2,) * 3), num_blocks=4)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1_400_000
    path = tmp_path / "large.safetensors"
    save_weights(path, halve(network.state_dict()), backbone=record(), origin={"versions": {"torch": "2" * 1000}})
    assert 2_800_000 < path.stat().st_size <= 3_000_000


# ------------------------------------------------------------------------------------------------------------- what is refused

AGAIN = r"; get the file again \(a bundled one: install sslkit again\)$"


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with another header, and a checksum that fits it."""
    tensors, header = load_tensors(path)
    header = copy.deepcopy(header)
    change(header)
    save_tensors(path, tensors, header)
    return path


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flipped, r"mine\.safetensors: damaged \(its checksum is wrong\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"mine\.safetensors: damaged \("),
        (lambda path: path.write_bytes(b""), r"mine\.safetensors: damaged \("),
        (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), r"mine\.safetensors: not written by this version of sslkit"),
        (lambda path: rewritten(path, lambda header: header.update(format=2)), r"by another version of sslkit \(format 2, not 1\)"),
        (lambda path: rewritten(path, lambda header: header.pop("format")), r"by another version of sslkit \(format None, not 1\)"),
        (lambda path: rewritten(path, lambda header: header.pop("backbone")), r"damaged \(backbone: field required\)"),
        (lambda path: rewritten(path, lambda header: header.update(origin=3)), r"damaged \(origin: "),
        (lambda path: rewritten(path, lambda header: header["backbone"].update({"class": 3})), r"damaged \(backbone\.class: "),
        (
            lambda path: rewritten(path, lambda header: header["backbone"]["image"].update(width=10**9)),
            r"damaged \(backbone\.image\.width: ",
        ),
        (lambda path: rewritten(path, lambda header: header.update(origin={"x": 2**70})), r"damaged \(origin\.x: is too large an integer"),
    ],
    ids=["a bit", "cut", "empty", "no header", "newer", "no format", "no record", "no origin", "no class", "gigantic", "a large integer"],
)
def test_damaged_files_are_named(damage: Callable[[Path], object], message: str, file: Path):
    damage(file)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_backbone(file)
    assert str(caught.value).startswith(f"{file}: ")
    with pytest.raises(ArtifactError, match=AGAIN):
        load_backbone(file)


def test_the_weights_of_a_stage_are_no_such_file(tmp_path: Path):
    save_module(tmp_path / BACKBONE, nin())
    message = r"backbone\.safetensors: does not say how to build its backbone; name the folder of the stage that left it$"
    with pytest.raises(ArtifactError, match=message):
        load_backbone(tmp_path / BACKBONE)


def test_there_are_no_snapshots_in_it(file: Path):
    with pytest.raises(ArtifactError, match=r"mine\.safetensors: has no snapshots; found 3; leave snapshot out, or name a stage's folder$"):
        load_backbone(file, snapshot=3)


def test_code_is_imported_only_when_allowed(file: Path):
    rewritten(file, lambda header: header["backbone"].update({"class": "tests.contract.miniatures.backbones:TinyConv", "options": {}}))
    with pytest.raises(ArtifactError, match=r"TinyConv' is code outside the catalog, from .*; if you trust it: --allow-code, in Python"):
        load_backbone(file)


# --------------------------------------------------------------------------------------------------------- what a name stands for


@pytest.fixture
def bundled(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file under a name, and an empty current folder."""
    monkeypatch.setattr(module, "bundled_weights", lambda: {"rotations": file})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return file


def stage(folder: Path) -> Path:
    """A folder with another network than the file has."""
    folder.mkdir(parents=True)
    save_module(folder / BACKBONE, nin(seed=5))
    write_json(folder / ARTIFACT, {"kind": "pretrain", "status": "finished", "backbone": record()})
    return folder


def first_weights(path: str | Path) -> torch.Tensor:
    return next(load_backbone(path).parameters())


def test_a_name_is_found(bundled: Path):
    assert torch.equal(first_weights("rotations"), first_weights(bundled))
    assert torch.equal(first_weights(Path("rotations")), first_weights(bundled))


@pytest.mark.parametrize(
    "there",
    [
        lambda: Path("rotations").mkdir(),
        lambda: Path("rotations").write_text("notes"),
        lambda: (Path("rotations") / "images" / "deeper").mkdir(parents=True),
    ],
    ids=["an empty folder", "a file", "a folder with others"],
)
def test_what_is_no_artifact_hides_no_name(bundled: Path, there: Callable[[], object]):
    there()
    assert torch.equal(first_weights("rotations"), first_weights(bundled))


@pytest.mark.parametrize("path", ["rotations", "rotations/pretrain"], ids=["a stage", "a run"])
def test_an_artifact_of_that_name_comes_first(bundled: Path, path: str):
    folder = stage(Path(path))
    assert torch.equal(first_weights("rotations"), first_weights(folder))
    assert not torch.equal(first_weights("rotations"), first_weights(bundled))


@pytest.mark.usefixtures("bundled")
def test_a_path_is_never_a_name():
    with pytest.raises(ArtifactError, match=r"^\./rotations: no such folder; name a run's folder or a stage's$"):
        load_backbone("./rotations")


@pytest.mark.usefixtures("bundled")
@pytest.mark.parametrize(
    ("name", "advice"), [("rotation", "did you mean 'rotations'?"), ("x" * 5000, "name a run's folder or a stage's")], ids=["near", "long"]
)
def test_an_unknown_name_is_reported_the_others(name: str, advice: str):
    with pytest.raises(ArtifactError, match=r"no bundled weights of this name|\.\.\.;") as caught:
        load_backbone(name)
    assert str(caught.value).endswith(f"; allowed: rotations; {advice}")


@pytest.mark.usefixtures("bundled")
def test_bundled_weights_have_no_snapshots():
    with pytest.raises(ArtifactError, match=r"^rotations: has no snapshots; found 0; leave snapshot out, or name a stage's folder$"):
        load_backbone("rotations", snapshot=0)
