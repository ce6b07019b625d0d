"""The audit of a recipe, from Python and from the command line."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from sslkit import ArtifactError, Backbone, FeatureInfo, ImageSpec, Recipe, RecipeError, audit_recipe, load_recipe
from sslkit.audit import recipe_audit
from sslkit.audit.finding import Estimate, Finding, Pair
from sslkit.audit.recipe_audit import AuditReport
from sslkit.audit.task_audit import AuditOptions
from sslkit.cli.console import print_audit
from sslkit.recipe.stages import PretrainStage
from sslkit.run.environment import describe_environment
from tests.recipes import HEAD, changed

CPU = changed("name=tiny", "precision=float32", "backbone={ name = 'nin', width = 0.1 }", text=HEAD)
RECIPE = (
    CPU
    + """
[stages.pretrain]
task = { name = "rotnet" }
optimizer = { name = "adamw", lr = 0.005 }
batch_size = 8

[stages.other]
task = { name = "rotnet", transforms = ["identity", "transpose"] }

[stages.probe]
weights = "pretrain"
evaluator = { name = "knn", layers = ["conv1"] }
"""
)

FAST = AuditOptions(sources=("isotropic_noise",), num_images=200, epochs=1)


@pytest.fixture(autouse=True)
def narrow_network(monkeypatch):
    """An eighth of the usual one's width: these tests are not about what it learns."""
    monkeypatch.setattr("sslkit.audit.task_audit.BACKBONE", {"name": "nin", "num_blocks": 3, "width": 0.03})


def recipe_of(folder: Path, text: str = RECIPE, *overrides: str) -> Recipe:
    (folder / "tiny.toml").write_text(text)
    return load_recipe(folder / "tiny.toml", overrides, allow_code=True)


# ----------------------------------------------------------------------------------------------------------------- stages


def test_every_pretraining_stage_is_audited(tmp_path):
    report = audit_recipe(recipe_of(tmp_path), options=FAST)
    assert list(report.findings) == ["pretrain", "other"]
    (found,) = report.findings["other"]
    assert found.classes == ("identity", "transpose")
    assert (found.num_images, found.num_heldout) == (200, 100)


def test_only_the_stages_asked_for_are_audited(tmp_path):
    assert list(audit_recipe(recipe_of(tmp_path), stages=["other"], options=FAST).findings) == ["other"]


def test_a_sweeps_variants_are_audited_unless_they_look_the_same(tmp_path):
    sweep = """
    [sweep]
    "backbone.num_blocks" = [3, 4]
    quarters = {}
    halves = { "stages.pretrain.task.angles" = [0, 180] }
    """
    recipe = recipe_of(tmp_path, RECIPE + sweep.replace("\n    ", "\n"))
    assert len([stage for stage in recipe.stages if stage.name == "pretrain"]) == 4
    report = audit_recipe(recipe, options=FAST)
    assert list(report.findings) == ["quarters,num_blocks=3/pretrain", "num_blocks=3/other", "halves,num_blocks=3/pretrain"]


def test_a_stage_is_audited_with_its_own_training_and_machine(tmp_path, monkeypatch):
    given: dict[str, object] = {}
    monkeypatch.setattr(recipe_audit, "audit_task", lambda _task, _data, **options: given.update(options) or ())
    recipe = recipe_of(tmp_path, RECIPE, "stages.pretrain.augment.crop_padding=2", "stages.pretrain.log_every=7")
    audit_recipe(recipe, stages=["pretrain"], options=FAST)
    stage = recipe.stage("pretrain")
    assert isinstance(stage, PretrainStage)
    assert given["training"] == stage.training
    assert given["runtime"] == stage.runtime
    assert (given["options"], given["name"]) == (FAST, "pretrain")


def test_a_task_with_demands_gets_its_stages_network(tmp_path, monkeypatch):
    built: list[str] = []

    class Demanded(Backbone):
        """Has what the task asks for."""

        capabilities = frozenset({"map", "magic"})

        def __init__(self, image: ImageSpec, *, label: str = "own") -> None:
            super().__init__(image)
            self.feature_info = (FeatureInfo("only", image.num_chs, 1),)
            self.scale = nn.Parameter(torch.ones(()))
            built.append(label)

        def extract(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
            return {"only": x * self.scale}

    monkeypatch.setattr(sys.modules[__name__], "Demanded", Demanded, raising=False)
    monkeypatch.setattr("sslkit_rotnet.RotNet.requires", frozenset({"magic"}))
    recipe = recipe_of(tmp_path, RECIPE, f'stages.other.backbone={{ name = "{__name__}:Demanded", label = "asked for" }}')
    audit_recipe(recipe, stages=["other"], options=FAST)
    assert set(built) == {"asked for"}


def test_a_missing_stage_is_refused(tmp_path):
    recipe = recipe_of(tmp_path)
    with pytest.raises(RecipeError, match=r"^pretrian: no such pretraining stage; allowed: pretrain, other; did you mean 'pretrain'\?$"):
        audit_recipe(recipe, stages=["pretrian"], options=FAST)
    with pytest.raises(RecipeError, match=r"^probe: no such pretraining stage; allowed: pretrain, other$"):
        audit_recipe(recipe, stages=["probe"], options=FAST)


def test_a_recipe_without_pretraining_is_refused(tmp_path):
    recipe = recipe_of(
        tmp_path,
        CPU + '[stages.probe]\nweights = "random"\nevaluator = { name = "knn", layers = ["conv1"] }',
    )
    with pytest.raises(RecipeError, match=r"^stages: none of them pretrains, so there is no pretext task to audit; found \['probe'\]$"):
        audit_recipe(recipe, options=FAST)


def test_errors_of_a_stage_start_with_its_path(tmp_path, monkeypatch):
    monkeypatch.setattr("sslkit_rotnet.task.TransformPrediction.heldout_phase", None)
    with pytest.raises(RecipeError, match=r"^stages\.pretrain\.task: predicts no classes, so there is no chance to compare with"):
        audit_recipe(recipe_of(tmp_path), options=FAST)
    with pytest.raises(RecipeError, match=r"^device: is not usable on this machine; found 'cuda:99'"):
        audit_recipe(recipe_of(tmp_path, RECIPE, 'device="cuda:99"'), options=FAST)


# ----------------------------------------------------------------------------------------------------------------- reports


def finding(source: str, value: float, *, leaks: bool = False) -> Finding:
    low = 2 * value if leaks else value / 2
    return Finding(
        source=source,
        classifier="turn",
        classes=("0°", "[45]", "90°"),
        num_images=400,
        num_heldout=200,
        accuracy=Estimate(value, value - 5, value + 5, 100 / 3),
        pairs=(Pair((0, 1), Estimate(low, low - 1, low + 1, 50)), Pair((0, 2), Estimate(20.0, 10.0, 30.0, 50.0))),
        seconds=1.25,
    )


REPORT = AuditReport(
    recipe="tiny",
    options=FAST,
    environment=describe_environment(torch.device("cpu")),
    findings={
        "half/pretrain": (finding("isotropic_noise", 33.25), finding("shuffled_patches", 38.0, leaks=True)),
        "pretrain": (finding("jpeg_noise", 34.0),),
    },
)


def test_the_table_has_a_row_for_every_finding():
    console = Console(file=io.StringIO(), width=120, highlight=False)
    print_audit(console, REPORT)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [
        ["half/pretrain", *[""] * 5],
        ["isotropic_noise", "33.3", "33.2 (28.2 to 38.2)", "0° / [45]", "16.6 (15.6 to 17.6)", "at chance"],
        ["shuffled_patches", "33.3", "38.0 (33.0 to 43.0)", "0° / [45]", "76.0 (75.0 to 77.0)", "leaks"],
        ["pretrain", *[""] * 5],
        ["jpeg_noise", "33.3", "34.0 (29.0 to 39.0)", "0° / [45]", "17.0 (16.0 to 18.0)", "at chance"],
    ]
    assert lines[0].startswith("tiny: pretext accuracy on images without content")
    assert lines[-1] == "in percent, with 95 % intervals; a pair's chance is 50, and its interval allows for the number of pairs"


def test_a_report_is_written_whole(tmp_path):
    REPORT.write(tmp_path / "new" / "audit.json")
    table = json.loads((tmp_path / "new" / "audit.json").read_text())
    assert table == json.loads(json.dumps(REPORT.as_json()))
    assert (table["recipe"], table["options"]["num_images"]) == ("tiny", 200)
    assert table["environment"]["versions"]["torch"] == torch.__version__
    assert table["environment"].keys() >= {"started", "command", "commit", "device"}
    assert table["stages"]["half/pretrain"][1]["verdict"] == "leaks"
    assert table["stages"]["half/pretrain"][1]["pairs"][0] == {"classes": ["0°", "[45]"], "value": 76, "low": 75, "high": 77, "chance": 50}


def test_a_report_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"audit\.json: cannot be written \(.+\); choose another file with --output$"):
        REPORT.write(tmp_path / "file" / "audit.json")


# ----------------------------------------------------------------------------------------------------------- command line

SHORT = ("--num-images", "200", "--epochs", "1", "--source", "isotropic_noise", "--device", "cpu")


@pytest.fixture
def sslkit_command(sslkit_command, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return sslkit_command


def test_the_command_prints_a_table_and_progress(sslkit_command):
    code, out, err = sslkit_command("audit", "tiny.toml", *SHORT, "--stage", "pretrain", "--output", "audit.json")
    assert code == 0
    assert "tiny: pretext accuracy on images without content" in out
    assert "isotropic_noise" in out
    assert err.startswith("  held out, epoch 1: loss ")
    assert json.loads(Path("audit.json").read_text())["options"] == {
        "sources": ["isotropic_noise"],
        "num_images": 200,
        "epochs": 1,
        "seed": 0,
    }


def test_the_command_prints_json_alone(sslkit_command):
    code, out, err = sslkit_command("audit", "tiny.toml", *SHORT, "--json", "--quiet", "--seed", "3", "stages.other.task={name='rotnet'}")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["options"]["seed"] == 3
    assert list(report["stages"]) == ["pretrain", "other"]  # alike but for the optimizer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--source", "noise"), "error: source: does not exist; found 'noise'; allowed: isotropic_noise, jpeg_noise, "),
        (("--num-images", "7"), "error: num_images: too few to distinguish from chance; found 7; allowed: 200 or more"),
        (("--stage", "probe"), "error: probe: no such pretraining stage; allowed: pretrain, other"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(sslkit_command, arguments, message):
    code, out, err = sslkit_command("audit", "tiny.toml", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
