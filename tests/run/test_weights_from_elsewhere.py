"""``run:PATH#stage`` and ``file:PATH``: a network of another run, and weights that anybody has saved."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sslkit import ArtifactError, ImageSpec, load_recipe, run_recipe
from sslkit.backbones.from_timm import TimmBackbone
from sslkit.backbones.nin import NIN
from sslkit.data.cache import OpenedDataset
from sslkit.recipe.recipe import Recipe
from sslkit.recipe.weights import Source
from sslkit.run.artifacts import load_backbone, read_artifact
from sslkit.run.networks import begun_with
from sslkit.run.preflight import check_recipe
from sslkit.run.weights_file import fit_weights
from sslkit.storage.identity import state_hash
from tests.observers import Recorder
from tests.recipes import HEAD, refusal

IMAGE = ImageSpec(8, 8, "gray", (0.3052,), (0.3760,))
SMALL_HEAD = HEAD.replace('name = "digits"', 'name = "digits"\nmax_images = 100')
PRETRAIN = SMALL_HEAD + '[stages.pretrain]\ntask = "rotnet"\nepochs = 2\nbatch_size = 50\nsnapshot_epochs = [1]\n'
BARE = 'name = "small"\ndevice = "cpu"\ndata = { name = "digits", max_images = 100 }\n'
PROBE = '[stages.probe]\nweights = "{}"\nevaluator = {{ name = "knn", layers = ["conv2"] }}\n'


def nin() -> NIN:
    torch.manual_seed(3)
    return NIN(IMAGE, num_blocks=3, width=0.05)


def state() -> dict[str, Tensor]:
    return nin().state_dict()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("earlier")
    (folder / "first.toml").write_text(PRETRAIN)
    run_recipe(load_recipe(folder / "first.toml"), output=folder / "run", report=False)
    return folder / "run"


def recipe(folder: Path, text: str, *overrides: str, allow_code: bool | None = None) -> Recipe:
    (folder / "mine.toml").write_text(text)
    return load_recipe(folder / "mine.toml", overrides, allow_code=allow_code)


def refused(folder: Path, text: str, *overrides: str) -> str:
    message = refusal(Exception, lambda: check_recipe(recipe(folder, text, *overrides)))
    return message.replace(f"{folder}/", "")


# ------------------------------------------------------------------------------------------------------------ another run


def test_a_network_comes_as_another_run_saved_it(earlier: Path, tmp_path: Path):
    path = os.path.relpath(earlier, tmp_path)
    text = BARE + PROBE.format(f"run:{path}#pretrain") + PROBE.format(f"run:{path}#pretrain@1").replace("probe", "early")
    text += f'[stages.tuned]\nweights = "run:{path}#pretrain"\nevaluator = {{ name = "finetune", epochs = 1, batch_size = 50 }}\n'
    mine, seen = recipe(tmp_path, text), Recorder()
    assert check_recipe(mine) == ""
    data = OpenedDataset(mine.data)
    hashes = {stage.key: state_hash(begun_with(mine, stage, data, tmp_path)) for stage in mine.stages}
    final, snapshot = state_hash(load_backbone(earlier / "pretrain")), state_hash(load_backbone(earlier / "pretrain", snapshot=1))
    assert hashes == {"probe": final, "early": snapshot, "tuned": final}
    run_recipe(mine, output=tmp_path / "run", observers=[seen], report=False)
    fingerprint = read_artifact(earlier / "pretrain")["fingerprint"]
    identities = {key: read_artifact(tmp_path / "run" / key)["identity"]["backbone"] for key in hashes}
    assert [identity["weights"] for identity in identities.values()] == [fingerprint, f"{fingerprint}@1", fingerprint]
    assert {identity["spec"] for identity in identities.values()} == {"nin"}
    resolved = load_recipe(tmp_path / "run" / "recipe.toml")
    assert resolved.stages == mine.stages, "the path no longer depends on the recipe's folder"
    assert load_backbone(tmp_path / "run" / "tuned").image == IMAGE


def test_its_own_images_stay_those_it_was_built_for(earlier: Path, tmp_path: Path):
    text = BARE.replace("max_images = 100", "image_size = 12") + PROBE.format(f"run:{earlier}#pretrain")
    mine = recipe(tmp_path, text)
    assert begun_with(mine, mine.stages[0], OpenedDataset(mine.data), tmp_path).image == IMAGE
    more = BARE + f'[stages.more]\nweights = "run:{earlier}#pretrain"\ntask = "rotnet"\nepochs = 1\nbatch_size = 50\n'
    assert check_recipe(recipe(tmp_path, more)) == "", "pretraining may continue from it"


def test_what_the_recipe_says_of_the_network_must_agree(earlier: Path, tmp_path: Path):
    text, probe = BARE + 'backbone = { name = "nin", num_blocks = 3, width = 0.05 }\n', PROBE.format(f"run:{earlier}#pretrain")
    assert check_recipe(recipe(tmp_path, text + probe)) == ""
    found = refused(tmp_path, text + probe, "backbone.num_blocks=4", "backbone.width=0.1")
    assert found == (
        "backbone: is not built as in the run that stages.probe.weights names (num_blocks: 3 -> 4; width: 0.05 -> 0.1); "
        "leave the table out, or give it the same options"
    )
    found = refused(tmp_path, text + probe, 'backbone={ name = "timm", model = "resnet18" }')
    assert found == (
        "backbone.name: is not the network of the run that stages.probe.weights names; found 'timm'; allowed: nin; "
        "leave the table out, or name 'nin'"
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("run:{}", "names no stage of that run that left a backbone; found 'run:{}'; allowed: pretrain; add its name: run:{}#pretrain"),
        (
            "run:{}#pretrian",
            "names no stage of that run that left a backbone; found 'run:{}#pretrian'; allowed: pretrain; did you mean 'pretrain'?",
        ),
        ("run:{}#pretrain@2", "that stage keeps no such snapshot; found 'run:{}#pretrain@2'; allowed: @1"),
        ("run:nowhere#pretrain", "no such folder of a run; found 'nowhere'; allowed: \"run:PATH#stage\""),
        (
            "runs/other",
            "no such stage; found 'runs/other'; allowed: random, backbone, run:PATH#stage, file:PATH; for a file write 'file:PATH'",
        ),
        ("file:{}", "is no file; found '{}'; allowed: a safetensors file, or the name of bundled weights"),
        ("file:none.safetensors", "no such file; found 'none.safetensors'; allowed: a safetensors file, or the name of bundled weights"),
    ],
)
def test_what_is_not_there_is_named(earlier: Path, tmp_path: Path, weights: str, message: str):
    (tmp_path / "earlier").symlink_to(earlier)
    found = refused(tmp_path, HEAD + PROBE.format(weights.format("earlier")))
    # found values are cut where they are long
    assert re.sub("found [^;]*", "", found) == re.sub("found [^;]*", "", f"stages.probe.weights: {message.format(*['earlier'] * 3)}")


def test_an_unfinished_stage_is_none(earlier: Path, tmp_path: Path):
    folder = tmp_path / "other" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "backbone.safetensors").write_bytes((earlier / "pretrain" / "backbone.safetensors").read_bytes())
    artifact = read_artifact(earlier / "pretrain")
    (folder / "artifact.json").write_text(json.dumps({**artifact, "status": "running"}))
    assert "that stage is not finished" in refused(tmp_path, BARE + PROBE.format("run:other#pretrain"))
    for damage in ({"fingerprint": ""}, {"backbone": {**artifact["backbone"], "image": {**artifact["backbone"]["image"], "mean": []}}}):
        (folder / "artifact.json").write_text(json.dumps({**artifact, **damage}))
        assert "the artifact of that stage is damaged" in refused(tmp_path, BARE + PROBE.format("run:other#pretrain"))
    (folder / "artifact.json").write_text(json.dumps({**artifact, "backbone": {"class": 3}}))
    assert "artifact.json: damaged (backbone.class: " in refused(tmp_path, BARE + PROBE.format("run:other#pretrain"))


def test_a_folder_imports_nothing_unless_it_is_trusted(earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "trap_nets.py").write_text(
        "from sslkit.backbones.nin import NIN\nopen('imported', 'w').close()\nclass Mine(NIN):\n"
        "    def __init__(self, image, *, num_blocks: int = 3):\n        super().__init__(image, num_blocks=num_blocks, width=0.05)\n"
    )
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "other" / "pretrain"
    folder.mkdir(parents=True)
    (folder / "backbone.safetensors").write_bytes((earlier / "pretrain" / "backbone.safetensors").read_bytes())
    artifact = read_artifact(earlier / "pretrain")
    artifact["backbone"] |= {"class": "trap_nets:Mine", "options": {"num_blocks": 3}}
    (folder / "artifact.json").write_text(json.dumps(artifact))
    probe = PROBE.format("run:other#pretrain")
    found = refused(tmp_path, BARE + probe)
    assert found.startswith("stages.probe.weights.name: 'trap_nets:Mine' is code outside the catalog")
    assert found.endswith("if you trust it: --allow-code, in Python allow_code=True")
    assert not (tmp_path / "imported").exists()
    assert check_recipe(recipe(tmp_path, BARE + probe, allow_code=True)) == ""
    assert (tmp_path / "imported").exists()
    named = BARE + 'backbone = "trap_nets:Mine"\n' + probe
    assert check_recipe(recipe(tmp_path, named)) == "", "what the user's own recipe names is the user's own"


# ------------------------------------------------------------------------------------------------------------------ a file


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder.", "state.model.backbone."])
def test_names_are_found_behind_any_prefix(tmp_path: Path, prefix: str):
    tensors = {f"{prefix}{name}": tensor for name, tensor in state().items()} | {
        "projector.0.weight": torch.zeros(2, 2),
        f"{prefix}fc.bias": torch.zeros(2),
    }
    save_file(tensors if prefix else {name: each for name, each in tensors.items() if "projector" not in name}, tmp_path / "w.safetensors")
    fitted = fit_weights(Source(path=tmp_path / "w.safetensors"), nin())
    assert all(torch.equal(fitted.tensors[name], tensor) for name, tensor in state().items())
    assert fitted.tensors.keys() == state().keys()
    assert f"{prefix}fc.bias" in fitted.note.partition("left over: ")[2]
    assert ("projector.0.weight" in fitted.note) == bool(prefix)


def test_a_file_of_sslkit_and_bundled_weights_fit(earlier: Path, tmp_path: Path):
    text = HEAD + PROBE.format(f"file:{earlier}/pretrain/backbone.safetensors")
    mine = recipe(tmp_path, text)
    begun = begun_with(mine, mine.stages[0], OpenedDataset(mine.data), tmp_path)
    assert state_hash(begun) == state_hash(load_backbone(earlier / "pretrain"))
    bundled = load_backbone("rotnet_cifar10_cpu")
    bundled_file = fit_weights(Source(path=Path(__file__).parents[2] / "recipes" / "weights" / "rotnet_cifar10_cpu.safetensors"), bundled)
    assert all(torch.equal(bundled_file.tensors[name], tensor) for name, tensor in bundled.state_dict().items()), "halves are widened"
    assert recipe(tmp_path, HEAD + PROBE.format("file:rotnet_cifar10_cpu")).stages[0].source.path.is_file()  # type: ignore[union-attr]


def test_a_run_takes_a_file_says_so_and_knows_it_again(tmp_path: Path):
    save_file(
        {f"module.{name}": tensor for name, tensor in state().items()} | {"module.fc.weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors"
    )
    text = HEAD + '[stages.more]\nweights = "file:w.safetensors"\ntask = "rotnet"\nepochs = 1\nbatch_size = 50\n'
    seen = Recorder()
    run_recipe(recipe(tmp_path, text), output=tmp_path / "run", observers=[seen], report=False)
    num = len(state())
    assert f"weights: {num} tensors of w.safetensors below 'module.'; left over: module.fc.weight" in seen.messages()
    known = read_artifact(tmp_path / "run" / "more")["identity"]["backbone"]["weights"]
    assert re.fullmatch("file [0-9a-f]{64}", known)
    (tmp_path / "w.safetensors").rename(tmp_path / "moved.safetensors")
    moved = recipe(tmp_path, text.replace("w.safetensors", "moved.safetensors"))
    run_recipe(moved, output=tmp_path / "run", report=False)  # the same bytes elsewhere
    save_file({name: tensor + 1 for name, tensor in state().items()}, tmp_path / "moved.safetensors")
    assert "(stages.more.weights: 'file " in refusal(ArtifactError, run_recipe, moved, output=tmp_path / "run", report=False)


def test_every_mismatch_is_named_and_nothing_is_loaded_in_part(tmp_path: Path):
    first, second, *_ = [name for name in state() if "num_batches" not in name]
    tensors = {name: tensor for name, tensor in state().items() if name != first} | {
        "odd.weight": torch.zeros(3),
        second: torch.zeros(7, 7),
    }
    save_file(tensors, tmp_path / "w.safetensors")
    network = nin()
    message = refusal(ArtifactError, fit_weights, Source(path=tmp_path / "w.safetensors"), network).replace(f"{tmp_path}/", "")
    assert f"w.safetensors: does not fit NIN (missing: {first}; unexpected: odd.weight; other shape: {second} (7x7 where " in message
    assert message.endswith("choose the backbone that was trained")
    assert state_hash(network) == state_hash(nin())


def test_what_may_be_missing_begins_at_random(tmp_path: Path):
    first, second, *_ = [name for name in state() if "num_batches" not in name]
    save_file(
        {name: tensor for name, tensor in state().items() if name != first and "num_batches" not in name} | {second: torch.zeros(7)},
        tmp_path / "w.safetensors",
    )
    text = HEAD + PROBE.format("file:w.safetensors")
    found = refused(tmp_path, text)
    assert found.startswith("stages.probe.weights: w.safetensors: does not fit NIN (missing: ")
    assert found.endswith("; list what may begin at random in allow_missing")
    mine = recipe(tmp_path, text, f"stages.probe.allow_missing=['{first}', '{second}']")
    assert check_recipe(mine) == ""
    notes: list[str] = []
    begun = begun_with(mine, mine.stages[0], OpenedDataset(mine.data), tmp_path, notes.append).state_dict()
    assert not torch.equal(begun[first], state()[first])
    assert all(torch.equal(begun[name], tensor) for name, tensor in state().items() if name not in (first, second))
    assert "begin at random: " in notes[0]
    assert list(mine.table["stages"]["probe"]["allow_missing"]) == [first, second]
    unknown = refused(tmp_path, text, "stages.probe.allow_missing=['nothing.']")
    assert "allow_missing names no weight of NIN; found ['nothing.']" in unknown
    other = refused(tmp_path, HEAD + PROBE.format("random"), "stages.probe.allow_missing=['conv']")
    assert other == "stages.probe.allow_missing: is for weights from a file; found ['conv']; leave it out"


def test_of_several_networks_in_a_file_one_is_chosen(tmp_path: Path):
    student, teacher = (
        {f"{who}.{name}": tensor + shift for name, tensor in state().items()} for who, shift in (("student", 0), ("teacher", 1))
    )
    save_file(student | teacher, tmp_path / "w.safetensors")
    message = refusal(ArtifactError, fit_weights, Source(path=tmp_path / "w.safetensors"), nin())
    assert message.endswith("holds several networks, below student and teacher; choose one: file:w.safetensors#teacher"), message
    chosen = fit_weights(Source(path=tmp_path / "w.safetensors", prefix="teacher"), nin())
    assert all(torch.equal(chosen.tensors[name], tensor + 1) for name, tensor in state().items())
    assert "no weight of the network is below 'pupil.'" in refusal(
        ArtifactError, fit_weights, Source(path=tmp_path / "w.safetensors", prefix="pupil"), nin()
    )
    assert recipe(tmp_path, HEAD + PROBE.format("file:w.safetensors#teacher")).stages[0].source == Source(
        path=tmp_path / "w.safetensors", prefix="teacher"
    )


def test_a_few_names_that_fit_by_chance_are_no_network(tmp_path: Path):
    first, second, *_ = [name for name in state() if "num_batches" not in name]
    save_file({f"{who}.{first}": torch.zeros(3) for who in ("one", "two")}, tmp_path / "w.safetensors")
    message = refusal(ArtifactError, fit_weights, Source(path=tmp_path / "w.safetensors"), nin())
    assert "does not fit NIN (missing: " in message
    assert f"other shape: {first} (3 where " in message
    half = {f"half.{name}": torch.zeros(3) for name in state()}  # the names alone
    save_file(half | {f"whole.{name}": tensor for name, tensor in state().items()}, tmp_path / "w.safetensors")
    fitted = fit_weights(Source(path=tmp_path / "w.safetensors"), nin())
    assert torch.equal(fitted.tensors[second], state()[second])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"\0" * 60, b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"[]"])
def test_nothing_but_safetensors_is_read(tmp_path: Path, content: bytes):
    (tmp_path / "w.safetensors").write_bytes(content)
    found = refused(tmp_path, HEAD + PROBE.format("file:w.safetensors"))
    assert found.startswith("stages.probe.weights: w.safetensors: is no safetensors file, or damaged (")
    assert found.endswith("write it with safetensors.torch.save_file(state_dict, path)")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_named(tmp_path: Path, zipped: bool):
    torch.save(state(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = refused(tmp_path, HEAD + PROBE.format("file:w.pth"))
    assert found.startswith("stages.probe.weights: w.pth: is a PyTorch pickle, no safetensors file; ")
    assert found.endswith("convert it yourself: safetensors.torch.save_file(torch.load(path), new_path), of a dict of tensors alone")


def test_another_network_altogether_is_refused(tmp_path: Path):
    save_file({"alpha.beta": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert "w.safetensors: no name in it is one of the network's; found 'alpha.beta'; allowed: " in refused(
        tmp_path, HEAD + PROBE.format("file:w.safetensors")
    )


RGB = ImageSpec(32, 32, "rgb", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.slow
def test_torchvisions_resnet_computes_what_timms_does_with_its_weights(tmp_path: Path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18().eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    ours = TimmBackbone(RGB, model="resnet18").eval()
    fitted = fit_weights(Source(path=tmp_path / "w.safetensors"), ours)
    ours.load_state_dict(fitted.tensors)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    theirs.fc = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(ours.embed(images, "layer4"), theirs(ours.prepare(images)))
    assert fitted.note.endswith("left over: fc.bias, fc.weight")


@pytest.mark.slow
def test_torchvisions_vit_computes_what_timms_does_with_its_weights(tmp_path: Path):
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    theirs = VisionTransformer(image_size=32, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768).eval()
    save_file({f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    ours = TimmBackbone(RGB, model="vit_tiny_patch16_224").eval()
    ours.load_state_dict(fit_weights(Source(path=tmp_path / "w.safetensors"), ours).tensors)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    theirs.heads = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(ours.embed(images, "pre_logits"), theirs(ours.prepare(images)), rtol=1e-3, atol=1e-4)


def test_paths_begin_at_the_file_that_holds_them(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    save_file(state(), tmp_path / "deep" / "w.safetensors")
    (tmp_path / "deep" / "base.toml").write_text(HEAD + PROBE.format("file:w.safetensors"))
    mine = recipe(tmp_path, 'extends = "deep/base.toml"\nname = "mine"\n')
    assert mine.stages[0].weights == f"file:{tmp_path}/deep/w.safetensors"
    swept = recipe(
        tmp_path, 'extends = "deep/base.toml"\nname = "mine"\n[sweep]\none = { "stages.probe.weights" = "file:deep/w.safetensors" }\n'
    )
    assert swept.stages[0].weights == f"file:{tmp_path}/deep/w.safetensors"
