import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sslkit.run.artifacts as module
from sslkit import (
    NIN,
    ArtifactError,
    Backbone,
    Catalog,
    Constant,
    Digits,
    ImageSpec,
    Schedule,
    StorageError,
    TrainingOptions,
    load_backbone,
    pretrain,
)
from sslkit.contract.runtime import Runtime
from sslkit.run.artifacts import ARTIFACT, BACKBONE, BackboneRecord, describe_backbone, load_weights, record_of, save_module
from sslkit.storage.identity import state_hash
from sslkit.storage.json_files import read_json, write_json, write_text
from sslkit.training.seeds import global_seed
from tests.contract.miniatures.backbones import TinyConv
from tests.contract.miniatures.rotation import Rotation
from tests.run.disks import file_sizes_limited

GRAY = ImageSpec(8, 12, "gray", (0.3,), (0.4,))
NIN_OPTIONS: dict[str, Any] = {"num_blocks": 3, "width": 0.05, "pool_after_conv3": False}
CODE = "tests.contract.miniatures.backbones:TinyConv"


def tiny(image: ImageSpec = GRAY, *, seed: int = 1, width: int = 4) -> TinyConv:
    with global_seed(seed):
        return TinyConv(image, width=width)


def nin() -> NIN:
    with global_seed(1):
        return NIN(GRAY, **NIN_OPTIONS)


def leave(folder: Path, backbone: Backbone, spec: str, options: dict[str, Any] | None, *, kind: str = "pretrain") -> Path:
    """What a finished stage leaves in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_module(folder / BACKBONE, backbone)
    record = describe_backbone(backbone, BackboneRecord(spec, options))
    write_json(folder / ARTIFACT, {"stage": folder.name, "kind": kind, "status": "finished", "backbone": record})
    return folder


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name]), name


# ------------------------------------------------------------------------------------------------------------- load_backbone


def test_a_backbone_is_built_again_in_eval_mode_with_its_normalisation(tmp_path: Path):
    trained = nin()
    loaded = load_backbone(leave(tmp_path / "pretrain", trained, "nin", NIN_OPTIONS))
    assert isinstance(loaded, NIN)
    assert_same(loaded, trained)
    assert loaded.image == GRAY
    assert isinstance(loaded.image.mean, tuple)
    assert (loaded.mean.item(), loaded.std.item()) == pytest.approx((0.3, 0.4))
    assert not any(child.training for child in loaded.modules())
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    assert torch.equal(loaded.embed(images), trained.eval().embed(images))


def test_paths_may_be_strings_and_a_run_stands_for_its_one_pretraining_stage(tmp_path: Path):
    leave(tmp_path / "pretrain", nin(), "nin", NIN_OPTIONS)
    leave(tmp_path / "finetune", nin(), "nin", NIN_OPTIONS, kind="evaluate")
    write_json(tmp_path / "probe" / ARTIFACT, {"kind": "evaluate"})
    assert_same(load_backbone(str(tmp_path)), nin())
    assert_same(load_backbone(str(tmp_path / "finetune")), nin())


def test_a_run_with_several_pretraining_stages_or_none_needs_a_stage(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r": no single pretraining stage; found \[\]; name a stage's folder$"):
        load_backbone(tmp_path)
    for name in ("second", "first"):
        leave(tmp_path / name, nin(), "nin", NIN_OPTIONS)
    with pytest.raises(ArtifactError, match=r": no single pretraining stage; found \['first', 'second'\]; name a stage's folder$"):
        load_backbone(tmp_path)
    assert_same(load_backbone(tmp_path / "second"), nin())


def test_a_backbone_made_in_python_is_read_into_an_equal_one(tmp_path: Path):
    folder = leave(tmp_path / "pretrain", tiny(), CODE, None)
    with pytest.raises(
        ArtifactError,
        match=r"TinyConv was made in Python, by a script or with arguments that no recipe could hold; "
        r"pass an equal one: load_backbone\(path, backbone=\.\.\.\); one whose class lies in a module of its own is built again$",
    ):
        load_backbone(folder, allow_code=True)
    mine = tiny(seed=2)
    assert load_backbone(folder, backbone=mine) is mine
    assert_same(mine, tiny())
    assert not mine.training


def test_code_outside_the_catalog_is_imported_only_when_allowed(tmp_path: Path):
    folder = leave(tmp_path / "pretrain", tiny(width=6), CODE, {"width": 6, "dropout": 0.1})
    with pytest.raises(
        ArtifactError, match=r"TinyConv' is code outside the catalog, from .*; if you trust it: --allow-code, in Python allow_code=True\)$"
    ):
        load_backbone(folder)
    assert_same(load_backbone(folder, allow_code=True), tiny(width=6))


def test_a_run_with_a_sweep_is_looked_through_too(tmp_path: Path):
    leave(tmp_path / "half" / "pretrain", nin(), "nin", NIN_OPTIONS)
    for name in ("half/probe", "half/probes/epoch=1", "fifth/probe"):
        write_json(tmp_path / name / ARTIFACT, {"kind": "evaluate"})
    assert_same(load_backbone(tmp_path), nin())
    assert_same(load_backbone(tmp_path / "half"), nin())
    leave(tmp_path / "fifth" / "pretrain", nin(), "nin", NIN_OPTIONS)
    with pytest.raises(
        ArtifactError, match=r": no single pretraining stage; found \['fifth/pretrain', 'half/pretrain'\]; name a stage's folder$"
    ):
        load_backbone(tmp_path)
    assert_same(load_backbone(tmp_path / "fifth"), nin())


class Scheduled(TinyConv):
    """Has a part that its recipe names."""

    def __init__(self, image: ImageSpec, *, schedule: Schedule) -> None:
        super().__init__(image)
        self.part = schedule


def test_code_in_a_part_of_a_backbone_is_imported_only_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "load_catalog", lambda **options: replace(Catalog.of(backbones={"mine": Scheduled}), **options))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wicked_part.py").write_text("from sslkit import Constant\n")
    folder = leave(tmp_path / "pretrain", Scheduled(GRAY, schedule=Constant()), "mine", {"schedule": {"name": "wicked_part:Constant"}})
    with pytest.raises(ArtifactError, match=r"\(backbone\.schedule\.name: 'wicked_part:Constant' is code outside the catalog, from "):
        load_backbone(folder)
    assert "wicked_part" not in sys.modules
    assert isinstance(vars(load_backbone(folder, allow_code=True))["part"], Constant)
    del sys.modules["wicked_part"]


def make_local() -> Backbone:
    class Local(TinyConv):
        pass

    return Local(GRAY)


class Opaque(TinyConv):
    """Takes what no recipe can hold."""

    def __init__(self, image: ImageSpec, *, part: object = None) -> None:
        super().__init__(image)


@pytest.mark.parametrize(
    ("backbone", "spec", "options"),
    [
        (NIN(GRAY, num_blocks=3, width=0.05), "sslkit.backbones.nin:NIN", NIN_OPTIONS),
        (copy.deepcopy(NIN(image=GRAY, num_blocks=3, width=0.05)), "sslkit.backbones.nin:NIN", NIN_OPTIONS),
        (tiny(width=6), CODE, {"width": 6, "dropout": 0.1}),
        (
            Scheduled(GRAY, schedule=Constant(warmup_epochs=1.0)),
            "tests.run.test_artifacts:Scheduled",
            {"schedule": {"name": "sslkit.training.schedules:Constant", "warmup_epochs": 1.0}},
        ),
        (Opaque(GRAY), "tests.run.test_artifacts:Opaque", {}),
        (Opaque(GRAY, part=torch.ones(1)), "tests.run.test_artifacts:Opaque", None),
        (make_local(), "tests.run.test_artifacts:make_local.<locals>.Local", None),
    ],
    ids=["ours", "a copy", "mine", "with a part", "with nothing", "with anything", "local"],
)
def test_a_network_made_in_python_is_known_by_what_it_was_given(backbone: Backbone, spec: str, options: dict[str, Any] | None):
    assert record_of(backbone) == BackboneRecord(spec, options)


def test_what_python_pretrained_is_loaded_back_without_the_program(tmp_path: Path):
    data = Digits()
    training = {"training": TrainingOptions(epochs=1, batch_size=500), "runtime": Runtime(device="cpu")}
    ours = pretrain(Rotation(), NIN(data.image(), num_blocks=3, width=0.05), data, output=tmp_path / "ours", **training)
    assert_same(load_backbone(tmp_path / "ours"), known(ours.backbone))
    mine = pretrain(Rotation(), TinyConv(data.image(), width=6), data, output=tmp_path / "mine", **training)
    with pytest.raises(ArtifactError, match=r"TinyConv' is code outside the catalog, from .*; if you trust it: .* allow_code=True\)$"):
        load_backbone(tmp_path / "mine")
    assert_same(load_backbone(tmp_path / "mine", allow_code=True), known(mine.backbone))


def known(backbone: Backbone | None) -> Backbone:
    assert backbone is not None
    return backbone


def test_an_unknown_class_or_option_cannot_be_built_again(tmp_path: Path):
    gone = leave(tmp_path / "gone", tiny(), "tests.contract.miniatures.backbones:Gone", {})
    with pytest.raises(ArtifactError, match=r"gone: the backbone cannot be built again \(.*has no 'Gone'"):
        load_backbone(gone, allow_code=True)
    unknown = leave(tmp_path / "unknown", nin(), "nim", NIN_OPTIONS)
    with pytest.raises(ArtifactError, match=r"cannot be built again \(.*no backbone is called 'nim'.*did you mean 'nin'\?"):
        load_backbone(unknown)
    older = leave(tmp_path / "older", nin(), "nin", {**NIN_OPTIONS, "depth": 3})
    with pytest.raises(ArtifactError, match=r"cannot be built again \(backbone\.depth: unknown option"):
        load_backbone(older)


class Pretrained(TinyConv):
    """Remembers whether it was asked to fetch weights."""

    def __init__(self, image: ImageSpec, *, pretrained: bool = False) -> None:
        super().__init__(image)
        self.asked = pretrained


def test_pretrained_weights_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "load_catalog", lambda **_options: Catalog.of(backbones={"mine": Pretrained}))
    folder = leave(tmp_path / "pretrain", Pretrained(GRAY), "mine", {"pretrained": True})
    assert not vars(load_backbone(folder))["asked"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda stage: (stage / ARTIFACT).write_text('{"kind": "pre'),
            r"artifact\.json: damaged \(.*\); remove it and run the recipe again$",
        ),
        (
            lambda stage: (stage / ARTIFACT).write_text("[1]"),
            r"artifact\.json: not a JSON object; remove it and run the recipe again$",
        ),
        (
            lambda stage: (stage / ARTIFACT).write_bytes(b"\xff\xfe"),
            r"artifact\.json: damaged \(.*utf-8.*\); remove it and run the recipe again$",
        ),
        (
            lambda stage: (stage / BACKBONE).unlink(),
            r"pretrain: this stage left no backbone; name a folder of pretraining or fine-tuning$",
        ),
        (lambda stage: write_json(stage / ARTIFACT, {"kind": "evaluate"}), r"pretrain: this stage left no backbone"),
        (lambda stage: (stage / BACKBONE).write_bytes(b"\x00" * 40), r"backbone\.safetensors: damaged \("),
        (lambda stage: (stage / BACKBONE).write_bytes((stage / BACKBONE).read_bytes()[:-9]), r"backbone\.safetensors: damaged \("),
    ],
    ids=["cut JSON", "other JSON", "no text", "no weights", "a probe", "no safetensors", "cut weights"],
)
def test_damaged_and_missing_files_are_named(break_it: Callable[[Path], object], message: str, tmp_path: Path):
    stage = leave(tmp_path / "pretrain", nin(), "nin", NIN_OPTIONS)
    break_it(stage)
    with pytest.raises(ArtifactError, match=message):
        load_backbone(stage)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"/runs/gone: no such folder; name a run's folder or a stage's$"):
        load_backbone(tmp_path / "runs" / "gone")


# ------------------------------------------------------------------------------------------------------------------- weights


class Shared(nn.Module):
    """Tied weights, in a layout of their own, and buffers of other types."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - missing from torch's stub
        self.two = self.one
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("halves", torch.arange(3).to(torch.bfloat16))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("nothing", torch.empty(0))


def test_a_modules_whole_state_is_written_and_read(tmp_path: Path):
    with global_seed(0):
        module = Shared()
        other = Shared()
    module.get_buffer("halves").add_(1)
    module.norm.num_batches_tracked.add_(3)
    save_module(tmp_path / "weights.safetensors", module)
    load_weights(other, tmp_path / "weights.safetensors")
    assert_same(other, module)
    assert other.one.weight.is_contiguous(memory_format=torch.channels_last)
    assert state_hash(other) == state_hash(module)


def test_weights_of_another_architecture_are_refused(tmp_path: Path):
    save_module(tmp_path / BACKBONE, tiny(width=6))
    with pytest.raises(
        ArtifactError, match=r"backbone\.safetensors: does not fit TinyConv \(.*\); build the backbone with the same options$"
    ):
        load_weights(tiny(), tmp_path / BACKBONE)
    with pytest.raises(ArtifactError, match="does not fit NIN"):
        load_weights(nin(), tmp_path / BACKBONE)
    with pytest.raises(ArtifactError, match=r"gone\.safetensors: no such file$"):
        load_weights(tiny(), tmp_path / "gone.safetensors")


# ---------------------------------------------------------------------------------------------------------------------- hash


def flip_lowest_bit(tensor: Tensor) -> None:
    """Change a tensor as little as it can be changed."""
    tensor.view(torch.uint8).flatten()[0] ^= 1


@pytest.mark.parametrize("name", list(Shared().state_dict()))
def test_the_hash_changes_with_any_bit_of_any_parameter_or_buffer(name: str):
    with global_seed(0):
        module = Shared()
    before = state_hash(module)
    assert state_hash(module) == before
    tensor = module.state_dict()[name].detach()
    if name == "nothing":
        module.register_buffer("nothing", torch.empty(1, 0))  # no bit to flip, but another shape
    elif tensor.ndim:
        flip_lowest_bit(tensor if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1))
    else:
        tensor.add_(1)
    assert state_hash(module) != before


def test_equal_bits_in_another_place_type_or_layout():
    def holding(**tensors: Tensor) -> nn.Module:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return module

    one, two = torch.zeros(2), torch.ones(2)
    base = state_hash(holding(a=one, b=two))
    assert state_hash(holding(b=two, a=one)) == base  # the order of names does not count
    assert state_hash(holding(a=two, b=one)) != base
    assert state_hash(holding(a=one, c=two)) != base
    assert state_hash(holding(a=one.view(torch.int32), b=two)) != base
    assert state_hash(holding(a=one[None], b=two)) != base
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert state_hash(holding(a=image)) == state_hash(holding(a=image.to(memory_format=torch.channels_last)))


def test_the_hash_sees_minus_zero_and_nan():
    linear = nn.Linear(1, 1)
    nn.init.zeros_(linear.weight)
    zero = state_hash(linear)
    with torch.no_grad():
        linear.weight.neg_()
        assert state_hash(linear) != zero
        linear.weight.fill_(float("nan"))
        assert state_hash(linear) == state_hash(linear)


# -------------------------------------------------------------------------------------------------------------------- files


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "results.json"
    write_json(path, {"top1": 91.16, "names": ["é"]})
    assert read_json(path) == {"top1": 91.16, "names": ["é"]}
    with pytest.raises(TypeError):
        write_json(path, {"top1": object()})

    with file_sizes_limited(5), pytest.raises(StorageError, match=r"results\.json: cannot be written, the file is larger than"):
        write_text(path, "much more")
    assert read_json(path) == {"top1": 91.16, "names": ["é"]}
    assert list(path.parent.iterdir()) == [path]


def test_nothing_else_stays_beside_a_written_file(tmp_path: Path):
    write_text(tmp_path / "page.html", "one")
    write_text(tmp_path / "page.html", "two ü")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "two ü"


def test_a_json_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"artifact\.json: no such file; name the folder of a finished stage$"):
        read_json(tmp_path / ARTIFACT)
