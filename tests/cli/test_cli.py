"""The command line as a user meets it: what it prints, where, and the exit code."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sslkit.report.run
from sslkit.catalog.catalog import Catalog, PluginInfo
from sslkit.recipe.bundled import bundled_recipes
from tests.recipes import SMALL, changed
from tests.report.run_folders import make_run

RECIPE = f"""# A recipe that runs in a second
{changed("name=tiny", "stages.probe.evaluator.layers=['conv1', 'conv2']", text=SMALL.replace('device = "cpu"', ""))}
[paper]
"probe.conv2.top1" = 91.16

[margins]
"deep over shallow" = ["probe.conv2.top1", "probe.conv1.top1"]
"""

INTERRUPT = '''
import signal
from dataclasses import dataclass

from sslkit import Observer, StepEnd


@dataclass(frozen=True, kw_only=True)
class CtrlC(Observer):
    """Presses Ctrl-C after a step."""

    step: int

    def observe(self, event):
        if isinstance(event, StepEnd) and event.step == self.step and event.stage == "pretrain":
            signal.raise_signal(signal.SIGINT)
'''


@pytest.fixture
def sslkit_command(sslkit_command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs one command in a folder with the recipe ``tiny.toml``."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return sslkit_command


def words(line: str) -> list[str]:
    """A row of a table without its borders."""
    return [word for word in line.split() if word.isascii()]


# ------------------------------------------------------------------------------------------------------------------- help


def test_help_needs_no_torch():
    code = "import sys; from sslkit.cli.commands import main; sys.argv = ['sslkit', '--help']\ntry: main()\nfinally: print(*sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    commands = ("Run a recipe's stages", "Validate a recipe", "List the bundled recipes", "List the installed plugins")
    assert [command for command in commands if command not in printed] == []
    modules = printed.splitlines()[-1].split()
    assert "typer" in modules
    assert not {"torch", "torchvision", "timm", "pydantic", "pluggy", "sklearn", "numpy", "matplotlib"} & set(modules)


def test_the_module_runs_as_the_script_does():
    printed = subprocess.run([sys.executable, "-m", "sslkit", "--version"], check=True, capture_output=True, text=True)
    assert printed.stdout == f"sslkit {sslkit.__version__}\n"
    assert printed.stderr == ""


def test_without_a_command_the_help_is_shown(sslkit_command):
    printed = sslkit_command()
    assert "Usage: " in printed.out + printed.err
    assert "Validate a recipe" in printed.out + printed.err


@pytest.mark.parametrize("command", ["run", "check", "recipes", "plugins"])
def test_every_command_has_help(sslkit_command, command):
    printed = sslkit_command(command, "--help")
    assert printed.code == 0
    usage = next(line for line in printed.out.splitlines() if "Usage: " in line)
    assert f" {command} [OPTIONS]" in usage


def test_a_misspelt_option_is_a_users_mistake(sslkit_command):
    printed = sslkit_command("run", "tiny.toml", "--freshh")
    assert printed.code == 2
    assert "--freshh" in printed.err


# -------------------------------------------------------------------------------------------------------------------- run


@pytest.mark.usefixtures("no_report")
def test_run_prints_the_results_and_where_they_are(sslkit_command, tmp_path):
    printed = sslkit_command("run", "tiny.toml", "--output", "out", "--device", "cpu", "stages.probe.evaluator.batch_size=64")
    assert printed.code == 0

    assert "pretrain: pretraining\n" in printed.err
    assert "probe: evaluating\n" in printed.err
    assert "probe: done in " in printed.err

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    figures = results["stages"]["probe"]
    table = [words(line) for line in printed.out.splitlines()]
    assert ["stage", "metric", "ours", "paper", "difference"] in table
    assert ["probe", "conv1.top1", f"{figures['conv1.top1']:.2f}"] in table
    assert ["conv2.top1", f"{figures['conv2.top1']:.2f}", "91.16", f"{figures['conv2.top1'] - 91.16:+.2f}"] in table
    margin = figures["conv2.top1"] - figures["conv1.top1"]
    assert f"deep over shallow: {margin:+.2f}  (probe.conv2.top1 minus probe.conv1.top1)" in printed.out.splitlines()
    assert printed.out.splitlines()[-1] == "run folder: out"

    resolved = (tmp_path / "out" / "recipe.toml").read_text()
    assert 'device = "cpu"' in resolved
    assert "batch_size = 64" in resolved

    again = sslkit_command("run", "tiny.toml", "--output", "out", "--device", "cpu", "stages.probe.evaluator.batch_size=64")
    assert again.out == printed.out
    skipped = [line for line in again.err.splitlines() if "finished earlier" in line]
    assert skipped[0].startswith("pretrain: finished earlier: pretext_loss ")
    assert skipped[1].startswith("probe: finished earlier: conv1.top1 ")
    assert "edits to sslkit itself" in again.err  # these tests run from a checkout


@pytest.mark.usefixtures("no_report")
def test_the_command_lines_device_is_that_of_every_stage(sslkit_command, tmp_path):
    elsewhere = ("device=cuda:98", "stages.pretrain.device=cuda:99", "stages.probe.device=cuda:97")
    assert sslkit_command("check", "tiny.toml", *elsewhere).code == 2
    assert sslkit_command("check", "tiny.toml", *elsewhere, "--device", "cpu").code == 0
    assert sslkit_command("run", "tiny.toml", "--quiet", *elsewhere, "--device", "cpu", "--output", "placed") == (0, "", "")
    for stage in ("pretrain", "probe"):
        assert "cuda" not in json.loads((tmp_path / "placed" / stage / "artifact.json").read_text())["device"]
    refused = sslkit_command("check", "tiny.toml", "--device", 'cu"da')
    assert refused.code == 2
    assert refused.err.startswith("error: device: is not usable on this machine; found 'cu\"da'; allowed: ")


def test_quiet_prints_nothing_on_success_and_a_report_is_written(sslkit_command, tmp_path):
    assert sslkit_command("run", "tiny.toml", "--quiet", "--device", "cpu") == (0, "", "")
    assert (tmp_path / "runs" / "tiny" / "report.html").exists()


@pytest.mark.usefixtures("no_report")
def test_an_interrupted_run_says_so_and_goes_on(sslkit_command, tmp_path):
    (tmp_path / "interrupt.py").write_text(INTERRUPT)
    handler = signal.getsignal(signal.SIGINT)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    command = ("run", "tiny.toml", "--allow-code", "--device", "cpu", 'observers=[{ name = "interrupt:CtrlC", step = 2 }]')

    stopped = sslkit_command(*command)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == (
        "Ctrl-C: stopped in stage 'pretrain' after 2 steps; resume with: sslkit run tiny.toml --allow-code --device cpu"
        " 'observers=[{ name = \"interrupt:CtrlC\", step = 2 }]'"
    )
    assert stopped.out == ""
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.getsignal(signal.SIGTERM) is on_sigterm

    resumed = sslkit_command(*command)
    assert resumed.code == 0
    assert "  resumed at step 2 of 3\n" in resumed.err
    assert "run folder: runs/tiny\n" in resumed.out


def test_ctrl_c_outside_of_a_stage_is_no_traceback(sslkit_command, monkeypatch):
    def impatient(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sslkit.report.run, "run_recipe", impatient)
    assert sslkit_command("run", "tiny.toml") == (130, "", "interrupted; resume with: sslkit run tiny.toml\n")


@pytest.mark.usefixtures("no_report")
def test_a_folder_of_another_recipe_is_refused(sslkit_command, tmp_path):
    first = sslkit_command("run", "tiny.toml", "--quiet", "--device", "cpu")
    before = (tmp_path / "runs" / "tiny" / "pretrain" / "artifact.json").read_text()
    refused = sslkit_command("run", "tiny.toml", "--quiet", "--device", "cpu", "stages.pretrain.task.angles=[0, 180]", "seed=3")
    assert (first.code, refused.code, refused.out) == (0, 2, "")
    assert refused.err.splitlines() == [
        "error: runs/tiny/pretrain: holds stage 'pretrain' of a different recipe"
        " (seed: 0 -> 3; stages.pretrain.task.angles: None -> [0.0, 180.0]); remove that folder to run this stage again, start over with --fresh, or choose another folder with --output"
    ]
    assert (tmp_path / "runs" / "tiny" / "pretrain" / "artifact.json").read_text() == before
    fresh = sslkit_command("run", "tiny.toml", "--quiet", "--device", "cpu", "stages.pretrain.task.angles=[0, 180]", "seed=3", "--fresh")
    assert fresh == (0, "", "")
    assert (tmp_path / "runs" / "tiny" / "pretrain" / "artifact.json").read_text() != before


@pytest.mark.usefixtures("no_report")
def test_a_longer_pretraining_is_continued_on_request(sslkit_command, tmp_path):
    command = ("run", "tiny.toml", "--quiet", "--device", "cpu")
    assert sslkit_command(*command).code == 0
    assert sslkit_command(*command, "stages.pretrain.epochs=2", "--extend") == (0, "", "")
    assert '"extended"' in (tmp_path / "runs" / "tiny" / "pretrain" / "artifact.json").read_text()
    both = sslkit_command(*command, "--extend", "--fresh")
    assert both == (2, "", "error: --extend: cannot be combined with --fresh; choose one\n")


# ------------------------------------------------------------------------------------------------------------------ check


def test_check_computes_nothing(sslkit_command, tmp_path):
    checked = sslkit_command("check", "tiny.toml")
    assert (checked.code, checked.err) == (0, "")
    assert checked.out.splitlines() == [
        "pretrain  1,442 images",
        "train     1,442 images of 10 classes, 140 to 147 each",
        "test      355 images of 10 classes, 34 to 36 each",
        "tiny.toml: fine, 2 stages: pretrain, probe",
    ]
    assert not (tmp_path / "runs").exists()


def test_check_says_what_it_could_not_check(sslkit_command, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLKIT_DATA", str(tmp_path / "empty"))
    printed = sslkit_command("check", "tiny.toml", "data=cifar10")
    assert printed.code == 0
    assert printed.out.splitlines() == [
        "tiny.toml: fine, 2 stages: pretrain, probe",
        "not checked: objectives, layers, batch sizes and labels, because the data is not on this machine yet",
    ]


def test_check_takes_a_bundled_recipe_by_its_name(sslkit_command):
    fine = sslkit_command("check", "quickstart").out.splitlines()[-1]
    assert fine.startswith("quickstart: fine, 6 stages: pretrain, rotnet_probe, ")


# ------------------------------------------------------------------------------------------------------- report and compare


@pytest.fixture
def two_runs(tmp_path: Path) -> None:
    """Of one recipe, in ``one`` and ``two``."""
    make_run(tmp_path / "one", {"probe": {"conv2.top1": 90.0}})
    make_run(tmp_path / "two", {"probe": {"conv2.top1": 92.504}}, pending=["knn"])


@pytest.mark.usefixtures("two_runs")
def test_report_writes_into_the_runs_folder_and_prints_where(sslkit_command, tmp_path):
    printed = sslkit_command("report", "one")
    tables = [f"one/tables/{name}.csv" for name in ("run", "results", "stages", "environment")]
    note = "note: one: There are no pictures, because the recipe cannot be loaded: stages: missing; required\n"
    assert printed == (0, "".join(f"{path}\n" for path in ("one/report.html", "one/report.md", *tables)), note)
    assert all((tmp_path / path).exists() for path in printed.out.split())


@pytest.mark.usefixtures("two_runs")
def test_report_of_several_runs_has_a_folder_of_its_own(sslkit_command, tmp_path):
    printed = sslkit_command("report", "one", "two")
    assert printed.out.splitlines()[:3] == [
        "reports/one+two/report.html",
        "reports/one+two/report.md",
        "reports/one+two/tables/comparison.csv",
    ]
    elsewhere = sslkit_command("report", "one", "two", "--output", "out")
    assert elsewhere.out.splitlines()[0] == "out/report.html"
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.usefixtures("two_runs")
def test_compare_prints_a_table(sslkit_command):
    printed = sslkit_command("compare", "one", "two")
    assert (printed.code, printed.err) == (0, "")
    rows = [words(line) for line in printed.out.splitlines()]
    assert ["metric", "one", "two"] in rows
    assert ["probe.conv2.top1", "90.00", "92.50", "(+2.50)"] in rows
    assert printed.out.splitlines()[-1] == "note: two is not finished; still to run: knn"


@pytest.mark.usefixtures("two_runs")
def test_compare_prints_json_or_markdown_alone(sslkit_command):
    saved = json.loads(sslkit_command("compare", "one", "two", "--json").out)
    assert [run["finished"] for run in saved["runs"]] == [True, False]
    assert saved["metrics"]["probe.conv2.top1"]["best"] == [1]
    assert sslkit_command("compare", "one", "two", "--markdown").out.splitlines() == [
        "| metric | one | two |",
        "| --- | ---: | ---: |",
        "| probe.conv2.top1 | 90.00 | **92.50** (+2.50) |",
    ]


@pytest.mark.usefixtures("two_runs")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "nowhere"), "nowhere: no such folder; name a folder that sslkit run wrote"),
        (("report", "one/probe"), "one/probe: not a run's folder, because it holds no recipe.toml; name the whole run: "),
        (("report", "one", "one"), "a run is given twice; found ['one', 'one']; name each run's folder once"),
        (("report", "one", "--output", "tiny.toml"), "tiny.toml: the report cannot be written ("),
        (("compare", "one"), "there is nothing to compare with; found ['one']; allowed: two runs or more; name another run's folder"),
        (("compare", "one", "two/../one"), "a run is given twice; found ['one', 'two/../one']; name each run's folder once"),
        (("compare", "one", "."), ".: not a run's folder, because it holds no recipe.toml; name a run in it: one, two"),
        (("compare", "one", "two", "--json", "--markdown"), "--markdown: cannot be combined with --json; choose one"),
    ],
)
def test_what_cannot_be_reported_is_a_users_mistake(arguments, message, sslkit_command):
    printed = sslkit_command(*arguments)
    assert (printed.code, printed.out) == (2, "")
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error: {message}")


@pytest.mark.slow
def test_a_recipe_that_a_person_names_brings_its_code_and_a_run_of_others_does_not(sslkit_command, tmp_path):
    (tmp_path / "net_of_mine.py").write_text("from sslkit import NIN\n\n\nclass Net(NIN):\n    pass\n")
    recipe = (tmp_path / "tiny.toml").read_text().replace('name = "nin"', 'name = "net_of_mine:Net"')
    (tmp_path / "mine.toml").write_text(recipe)
    source, run = tmp_path / "net_of_mine.py", tmp_path / "runs" / "tiny"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "recipe.toml").write_text(recipe)
    (tmp_path / "theirs" / "results.json").write_text("{}")
    (tmp_path / "extending.toml").write_text('extends = "theirs/recipe.toml"\nname = "mine"')
    refused = f"'net_of_mine:Net' is code outside the catalog, from {source}; if you trust it: --allow-code, in Python allow_code=True"
    for command in ("run", "check", "audit", "show"):
        assert sslkit_command(command, "theirs/recipe.toml") == (2, "", f"error: backbone.name: {refused}\n")
    message = sslkit_command("check", "extending.toml").err
    assert message == f"error: backbone.name: {refused} (in theirs/recipe.toml)\n"
    assert "net_of_mine" not in sys.modules
    assert not run.exists()
    assert sslkit_command("run", "mine.toml", "--quiet", "--device", "cpu") == (0, "", "")
    for flag in ((), ("--allow-code",)):
        again = sslkit_command("run", "mine.toml", "--device", "cpu", *flag)
        assert again.err.splitlines()[0] == f"imported: net_of_mine:Net from {source}"
    artifact = json.loads((run / "pretrain" / "artifact.json").read_text())
    assert artifact["environments"][0]["code"]["imported"] == {"net_of_mine:Net": str(source)}
    for command in ("check", "show"):
        printed = sslkit_command(command, "mine.toml")
        assert (printed.code, printed.err.splitlines()[0]) == (0, f"imported: net_of_mine:Net from {source}")
    assert sslkit_command("check", "runs/tiny/recipe.toml").err == f"error: stages.pretrain.backbone.name: {refused}\n"
    assert sslkit_command("check", "runs/tiny/recipe.toml", "--allow-code").code == 0
    page = run / "report.html"
    with_pictures = page.read_text()
    assert "Attention maps" in with_pictures
    printed = sslkit_command("report", "runs/tiny")
    reason = "There are no pictures, because the recipe cannot be loaded: stages.pretrain.backbone.name: "
    assert reason in page.read_text()
    assert printed.err.startswith(f"note: runs/tiny: {reason}")
    sslkit_command("report", "runs/tiny", "--allow-code")
    assert page.read_text() == with_pictures


# ---------------------------------------------------------------------------------------------------------------- recipes


def test_recipes_are_listed_with_their_summaries(sslkit_command):
    printed = sslkit_command("recipes")
    assert printed.code == 0
    names = [line.split()[0] for line in printed.out.splitlines() if not line.startswith(" ")]
    assert names == [recipe.name for recipe in bundled_recipes()]
    assert {"audit_transforms", "quickstart", "rotnet_cifar10"} <= set(names)
    assert "Three minutes on two cores" in printed.out


def test_a_recipe_is_copied_once(sslkit_command, tmp_path):
    assert sslkit_command("recipes", "copy", "quickstart", "mine.toml") == (0, "mine.toml\n", "")
    assert (tmp_path / "mine.toml").read_text().startswith("# Three minutes")
    (tmp_path / "mine.toml").write_text("# edited")
    refused = sslkit_command("recipes", "copy", "quickstart", "mine.toml")
    assert refused == (2, "", "error: mine.toml: exists already; name another file, or remove it\n")
    assert (tmp_path / "mine.toml").read_text() == "# edited"


def test_a_recipe_is_copied_into_the_current_folder(sslkit_command, tmp_path):
    assert sslkit_command("recipes", "copy", "quickstart").out == "quickstart.toml\n"
    assert (tmp_path / "quickstart.toml").exists()


# ---------------------------------------------------------------------------------------------------------------- plugins

PLUGINS = Catalog(
    plugins=(
        PluginInfo(name="flips", distribution="sslkit-flips", version="1.0", offers={"pretext_tasks": ("flips",)}),
        PluginInfo(name="broken", distribution="sslkit-broken", version="0.3", error="ModuleNotFoundError: No module named 'nowhere[x]'"),
        PluginInfo(name="asleep", distribution="sslkit-asleep", version="2.0", disabled=True),
        PluginInfo(name="foreign", distribution="sslkit-foreign", version="3.0", allowed=False),
    ),
    notes=("SSLKIT_ALLOW_PLUGINS names 'flisp', which no installed plugin has",),
)


def test_the_installed_plugins_are_listed(sslkit_command):
    printed = sslkit_command("plugins")
    assert printed.code == 0
    assert "pretext_tasks: rotnet" in printed.out
    assert "conv_probe, feature_quality, finetune, knn" in printed.out


def test_a_broken_plugin_is_listed_with_its_reason(sslkit_command, monkeypatch):
    monkeypatch.setattr("sslkit.catalog.discovery.load_catalog", lambda: PLUGINS)
    printed = sslkit_command("plugins")
    assert printed.code == 0
    rows = [words(line) for line in printed.out.splitlines()]
    assert ["flips", "sslkit-flips", "1.0", "pretext_tasks:", "flips"] in rows
    assert ["broken", "sslkit-broken", "0.3", "broken:", "ModuleNotFoundError:", "No", "module", "named", "'nowhere[x]'"] in rows
    assert ["asleep", "sslkit-asleep", "2.0", "disabled"] in rows
    assert ["foreign", "sslkit-foreign", "3.0", "not", "allowed"] in rows
    assert printed.err == "note: SSLKIT_ALLOW_PLUGINS names 'flisp', which no installed plugin has\n"


def test_plugins_as_json(sslkit_command, monkeypatch):
    monkeypatch.setattr("sslkit.catalog.discovery.load_catalog", lambda: PLUGINS)
    printed = sslkit_command("plugins", "--json")
    assert printed.code == 0
    flips, broken, asleep, foreign = json.loads(printed.out)
    assert (flips["name"], flips["distribution"], flips["version"]) == ("flips", "sslkit-flips", "1.0")
    assert (flips["offers"], flips["error"], flips["disabled"]) == ({"pretext_tasks": ["flips"]}, None, False)
    assert broken["error"] == "ModuleNotFoundError: No module named 'nowhere[x]'"
    assert asleep["disabled"] is True
    assert [info["state"] for info in (flips, broken, asleep, foreign)] == ["loaded", "broken", "disabled", "not allowed"]
    assert printed.err == "note: SSLKIT_ALLOW_PLUGINS names 'flisp', which no installed plugin has\n"
