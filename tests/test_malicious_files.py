"""Files that somebody made to do harm, or that a disk has damaged: one clear line, or shown as what they are; nothing else is touched."""

import copy
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings, strategies as st

from sslkit import ArtifactError, SslkitError, load_backbone
from sslkit.backbones.nin import NIN
from sslkit.contract.errors import printable
from sslkit.contract.images import ImageSpec
from sslkit.report.comparison import compare_runs
from sslkit.report.page import write_report
from sslkit.run.artifacts import BACKBONE, load_predictions, load_weights, save_module
from sslkit.storage.json_files import MAX_JSON_BYTES
from sslkit.storage.tensor_file import load_tensors, save_tensors
from tests.recipe.fuzzing import KEYS, VALUES
from tests.report.page_tags import Tags
from tests.report.run_folders import make_run, train_line

IMAGE = ImageSpec(8, 8, "gray", (0.5,), (0.5,))
FIGURES = {"pretrain": {"pretext_loss": 1.0}, "probe": {"conv1.top1": 50.0, "conv2.top1": 60.0}, "probe/epoch=1": {"conv2.k5.top1": 40.0}}
INJECTION = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>]]>-->&lt;"


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(SslkitError) as caught:
        action()
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert message == printable(message)
    return message


# -------------------------------------------------------------------------------------------------------------- safetensors


def tensor(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def packed(header: object, data: bytes = b"\0" * 4, *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def state(text: str) -> bytes:
    return packed({"__metadata__": {"sslkit": text}, "a": tensor()})


DAMAGED = {
    "empty": b"",
    "cut": b"\1\2",
    "a header of 1 TB": packed({}, length=2**40),
    "a header without end": packed({}, length=2**64 - 1),
    "no JSON": packed(b"nope"),
    "an array": packed([]),
    "a deep header": packed(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "overlapping": packed({"a": tensor(), "b": tensor()}),
    "out of range": packed({"a": tensor(offsets=(0, 400))}),
    "negative offset": packed({"a": tensor(offsets=(-4, 0))}),
    "reversed": packed({"a": tensor(offsets=(4, 0))}),
    "negative size": packed({"a": tensor(shape=(-1,))}),
    "gigantic": packed({"a": tensor(shape=(2**62,))}),
    "gigantic and empty": packed({"a": tensor(shape=(0, 2**63), offsets=(0, 0))}, b""),
    "unknown dtype": packed({"a": tensor("NOPE")}),
    "more than it says": packed({"a": tensor()}, b"\0" * 40),
    "a state that is no string": packed({"__metadata__": {"sslkit": 3}, "a": tensor()}),
    "a deep state": state("[" * 100_000),
    "a state that is an array": state("[1]"),
    "a state that is garbage": state("{{"),
    "a state with a number without end": state(f'{{"a": {"9" * 5000}}}'),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_tensors_are_named(content: bytes, tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    for message in (refused(lambda: load_tensors(path)), refused(lambda: load_weights(NIN(IMAGE, num_blocks=3, width=0.05), path))):
        assert message.startswith((f"{path}: damaged (", f"{path}: not written by this version of sslkit; "))


@given(
    st.binary(max_size=200)
    | st.dictionaries(KEYS, VALUES | st.builds(tensor), max_size=3).map(lambda header: packed(json.dumps(header, default=str).encode()))
)
def test_any_tensor_file_is_read_or_named(content: bytes):
    path = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else ".") / f"sslkit-fuzzed-{os.getpid()}.safetensors"
    path.write_bytes(content)
    try:
        load_tensors(path)
    except ArtifactError as error:
        event("named")
        assert str(error).startswith((f"{path}: damaged (", f"{path}: not written by this version of sslkit; "))  # noqa: PT017 - most are damaged, not all
    finally:
        path.unlink()


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A stage's folder with a small network in it."""
    network = NIN(IMAGE, num_blocks=3, width=0.05)
    save_module(tmp_path / BACKBONE, network)
    record = {"class": "nin", "options": {"num_blocks": 3, "width": 0.05}, "image": IMAGE._asdict()}
    (tmp_path / "artifact.json").write_text(json.dumps({"kind": "pretrain", "status": "finished", "backbone": record}))
    return tmp_path


def changed(stage: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    artifact = json.loads((stage / "artifact.json").read_text())
    change(artifact["backbone"])
    (stage / "artifact.json").write_text(json.dumps(artifact))
    return stage


def test_weights_of_another_kind_are_not_converted(stage: Path):
    load_backbone(stage)
    tensors, _ = load_tensors(stage / BACKBONE)
    name = next(iter(tensors))
    for wrong, why in {
        tensors[name].double(): "is torch.float64 where torch.float32 belongs",
        tensors[name].to(torch.complex64): "is torch.complex64 where torch.float32 belongs",
        tensors[name][:1]: "size mismatch",
        torch.zeros([1] * 100): "size mismatch",
    }.items():
        save_tensors(stage / BACKBONE, {**tensors, name: wrong})
        assert why in refused(lambda: load_backbone(stage))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda record: record.pop("class"), "backbone.class"),
        (lambda record: record.update({"class": 3}), "backbone.class"),
        (lambda record: record.pop("image"), "backbone.image"),
        (lambda record: record["image"].update(height=-1), "backbone.image.height"),
        (lambda record: record["image"].update(width=10**9), "backbone.image.width"),
        (lambda record: record["image"].update(mean="x"), "backbone.image.mean"),
        (lambda record: record["image"].update(color="x"), "backbone.image.color"),
        (lambda record: record.update(options=[1]), "backbone.options"),
    ],
)
def test_a_record_of_a_backbone_that_is_none(stage: Path, change: Callable[[dict[str, Any]], object], key: str):
    assert refused(lambda: load_backbone(changed(stage, change))).startswith(f"{stage / 'artifact.json'}: damaged ({key}: ")


@pytest.mark.parametrize("options", [{"width": 1e300}, {"width": "x"}, {"name": "timm"}, {"image": 3}, {"num_blocks": 10**9}, {"x": []}])
def test_options_of_a_backbone_that_are_none(stage: Path, options: dict[str, Any]):
    message = refused(lambda: load_backbone(changed(stage, lambda record: record["options"].update(options))))
    assert message.startswith(f"{stage}: the backbone cannot be built again (")


@pytest.mark.parametrize(
    "tensors",
    [
        {"a/classes": torch.zeros(3, dtype=torch.int32)},
        {"a/classes": torch.zeros(3, dtype=torch.int32), "a/targets": torch.zeros(2, dtype=torch.int32)},
        {"a/classes": torch.zeros(3), "a/targets": torch.zeros(3)},
        {"a/classes": torch.zeros(0, dtype=torch.int32), "a/targets": torch.zeros(0, dtype=torch.int32)},
        {"a/classes": torch.tensor([-1], dtype=torch.int32), "a/targets": torch.tensor([0], dtype=torch.int32)},
    ],
)
def test_predictions_that_are_none(tmp_path: Path, tensors: dict[str, torch.Tensor]):
    save_tensors(tmp_path / "predictions.safetensors", tensors)
    assert refused(lambda: load_predictions(tmp_path)).endswith(
        f"damaged (a: not two classes per image); remove the folder {tmp_path} to run that stage again"
    )


# --------------------------------------------------------------------------------------------------------------- JSON, TOML


def run_in(folder: Path) -> Path:
    artifacts = {
        "pretrain": {
            "identity": {"task": {"class": "x:RotNet", "angles": [0, 90]}, "backbone": {"spec": "nin", "options": {"width": 0.5}}},
            "snapshot_epochs": [1],
            "skipped_files": ["a.png"],
            "classes": ["a", "b"],
        }
    }
    log = [train_line(0.1, loss=1.0, lr=0.1, images_per_second=10.0), train_line(0.2, loss=0.5, lr=0.1, images_per_second=11.0)]
    paper, margins = {"probe.conv2.top1": 70.0}, {"m": ("probe.conv2.top1", "probe.conv1.top1")}
    return make_run(folder, FIGURES, logs={"pretrain": log}, artifacts=artifacts, paper=paper, margins=margins)


JSON_FILES = ["results.json", "pretrain/artifact.json", "probe/artifact.json"]


@pytest.mark.parametrize("file", JSON_FILES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a JSON object"),
        ("3", "not a JSON object"),
        ("{", "damaged ("),
        ('{"a": ' * 100_000, "damaged (is nested too deeply)"),
        (f'{{"a": {"[" * 40}{"]" * 40}}}', "damaged (a"),
        (f'{{"a": {"9" * 5000}}}', "damaged (Exceeds the limit"),
        (f'{{"a": {"9" * 20}}}', "damaged (a: is too large an integer; allowed: 64 bits)"),
        ("\0", "damaged ("),
    ],
)
def test_json_that_is_none(file: str, content: str, message: str, tmp_path: Path):
    run = run_in(tmp_path / "run")
    (run / file).write_text(content)
    assert refused(lambda: write_report([run])).startswith(f"{run / file}: {message}")
    assert refused(lambda: compare_runs([run, run_in(tmp_path / "other")])).startswith(f"{run / file}: {message}")


@pytest.mark.parametrize("file", JSON_FILES)
def test_files_without_end(file: str, tmp_path: Path):
    run = run_in(tmp_path / "run")
    with (run / file).open("wb") as large:
        large.truncate(MAX_JSON_BYTES * 100)
    assert refused(lambda: write_report([run])) == f"{run / file}: is too large; allowed: 67,108,864 bytes"


@pytest.mark.parametrize("key", ["../outside", "/etc", "a/../../outside", "..", ".", "", "a//b", "a/", "..\\outside", "nul\0", "x" * 300])
@pytest.mark.parametrize("place", ["stages", "pending"])
def test_a_stages_key_leads_nowhere_else(key: str, place: str, tmp_path: Path):
    run = run_in(tmp_path / "run")
    make_run(tmp_path / "outside", {"": {"secret": 1.0}})
    saved = json.loads((run / "results.json").read_text())
    saved[place] = {key: {"top1": 1.0}} if place == "stages" else [key]
    (run / "results.json").write_text(json.dumps(saved))
    assert refused(lambda: write_report([run])).startswith(f"{run / 'results.json'}: damaged (not a stage's key); found ")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.slow
@settings(max_examples=settings.default.max_examples // 5)  # each writes a report
@given(file=st.sampled_from([*JSON_FILES, "pretrain/metrics.jsonl"]), data=st.data())
def test_any_value_in_a_runs_files_is_shown_or_named(whole_run: Path, file: str, data: st.DataObject):
    path = whole_run / file
    good = path.read_text()
    lines = [json.loads(line) for line in good.splitlines()] if file.endswith("l") else [json.loads(good)]
    spoilt = copy.deepcopy(lines)
    container: Any = spoilt[0]
    while True:
        keys = sorted(container) if isinstance(container, dict) else range(len(container))
        key = data.draw(st.sampled_from(keys)) if container else "x"
        if not container or not isinstance(container[key], dict | list) or data.draw(st.booleans()):
            break
        container = container[key]
    if container:
        container[key] = data.draw(VALUES)
    path.write_text("".join(json.dumps(line, default=str) + "\n" for line in spoilt))
    try:
        write_report([whole_run])
        event("shown")
        Tags((whole_run / "report.html").read_text(encoding="utf-8"))
    except ArtifactError as error:
        event("named")
        assert str(error).startswith(f"{path.parent if 'stage' in str(error) else path}"[: len(str(whole_run))])  # noqa: PT017 - as above
    finally:
        path.write_text(good)


def test_lines_of_metrics_that_are_none_are_left_out(tmp_path: Path):
    run = run_in(tmp_path / "run")
    with (run / "pretrain" / "metrics.jsonl").open("a") as log:
        log.write(f'3\n[]\n{{"split": "train"}}\n{{"a": {"[" * 100_000}\n')
        log.write('{"split":"train","part":"","step":1,"epoch":1,"loss":"<script>"}\n{"split":"tr')
    assert "Loss during pretraining" in write_report([run]).page.read_text(encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------------- page


def test_nothing_is_injected_into_the_page(tmp_path: Path):
    """Every string that a page shows is markup; the page has the same elements as one whose strings are plain words."""
    pages = []
    for word in ("word", INJECTION.replace("/", "")):
        stages = {
            f"{word}": {"pretext_loss": 1.0},
            f"{word}2": {f"{word}.top1": 50.0, "conv2.top1": 1.0},
            f"{word}2/epoch=1": {f"{word}.k5.top1": 4.0},
        }
        environment = dict.fromkeys(("started", "commit", "python", "platform", "device"), word)
        more = {"command": [word], "versions": {word: word}, "plugins": {word: word}}
        facts = {
            "kind": "pretrain",
            "device": word,
            "finished": word,
            "environments": [{**environment, **more}],
            "identity": {"task": {"class": word, word: word}, "backbone": {"spec": word, "options": {word: [word]}}},
            "skipped_files": [word],
            "classes": [word, word],
            "frozen_backbone": {"sha256_after": word},
        }
        run = make_run(
            tmp_path / str(len(pages)),
            stages,
            name=word,
            paper={f"{word}2.{word}.top1": 1.0, word: 2.0},
            margins={word: (f"{word}2.{word}.top1", f"{word}2.conv2.top1")},
            artifacts=dict.fromkeys(stages, facts),
            pending=[word],
            recipe={"data": {"name": word, word: word}},
            logs={word: [train_line(0.1, **{word: 1.0}), train_line(0.2, **{word: 2.0})]},
        )
        (run / "variants").mkdir()
        (run / "variants" / f"{word}.toml").touch()
        pages.append(write_report([run]).page.read_text(encoding="utf-8"))
    plain, injected = (Tags(page) for page in pages)
    unbroken = [
        [tag for tag, _ in page.tags if tag not in ("wbr", "use", "path", "g", "text", "tspan", "defs")] for page in (plain, injected)
    ]
    assert unbroken[0] == unbroken[1]
    assert len(injected.scripts) == 1
    assert not [name for _, attributes in injected.tags for name in attributes if name.startswith("on")]
    assert set(injected.all("src")) <= {source for source in injected.all("src") if source.startswith("data:")}
    assert INJECTION.replace("/", "")[:20] in injected.text


# ------------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["../x", "..", "quickstart/../../x", "a\\b"])
def test_a_bundled_recipe_is_not_looked_for_elsewhere(name: str, tmp_path: Path, sslkit_command: Callable[..., Any]):
    printed = sslkit_command("recipes", "copy", name)
    assert printed.code == 2
    assert re.match(r"error: .*: (no such file|is a folder), and no bundled recipe of this name; allowed: ", printed.err)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_recipe_is_not_copied(tmp_path: Path, sslkit_command: Callable[..., Any]):
    printed = sslkit_command("recipes", "copy", "/etc/passwd")
    assert printed.code == 2
    assert printed.err.startswith("error: /etc/passwd: not valid TOML (")
    assert "root" not in printed.err
    assert list(tmp_path.iterdir()) == []
