"""What a recipe may bring along, and what is said of it; in processes of their own where code is imported."""

import contextlib
import copy
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sslkit import Catalog, RecipeError, SslkitError, load_catalog, load_recipe
from sslkit.catalog.catalog import PluginInfo
from sslkit.recipe.code_policy import RecipeCode, is_in_run, named_classes
from sslkit.recipe.recipe import parse_recipe
from tests.catalog.plugin_site import GOOD, Site
from tests.recipes import HEAD, PRETRAIN, refusal

ROOT = Path(__file__).parents[2]

RECIPE = HEAD + PRETRAIN

WATCHER = """
from dataclasses import dataclass
from pathlib import Path
from sslkit import Observer

Path(__file__).with_suffix(".imported").touch()

@dataclass(frozen=True, kw_only=True)
class Watcher(Observer):
    def observe(self, event):
        pass
"""


def test_every_place_of_a_class_is_known():
    table = tomllib.loads("""
        name = "no:code"
        data = "a:Data"
        backbone = { name = "b:Net", act = { name = "c:Act" }, pretrained = "no:code" }
        observers = ["d:First", { name = "e:Second", url = "no:code" }]
        device = "cuda:1"
        paper = { "probe.a:b" = 1.0 }
        margins = { "a:b" = ["no:code", "no:code"] }
        [stages.pretrain]
        task = "f:Task"
        optimizer = { main = { name = "g:Sgd" } }
        schedule = "h:Step"
        [stages.probe]
        evaluator = { name = "i:Probe", schedule = "j:Flat", layers = ["no:code"] }
        backbone = "k.deep:Net.Inner"
    """)
    assert dict(named_classes(table)) == {
        "data": "a:Data",
        "backbone.name": "b:Net",
        "backbone.act.name": "c:Act",
        "observers[0]": "d:First",
        "observers[1].name": "e:Second",
        "stages.pretrain.task": "f:Task",
        "stages.pretrain.optimizer.main.name": "g:Sgd",
        "stages.pretrain.schedule": "h:Step",
        "stages.probe.evaluator.name": "i:Probe",
        "stages.probe.evaluator.schedule": "j:Flat",
        "stages.probe.backbone": "k.deep:Net.Inner",
    }


def test_all_code_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.py").write_text("raise SystemExit('imported')")
    table = tomllib.loads(RECIPE + "[sweep.a]\n'stages.pretrain.task' = 'second:A'\n[sweep.b]\n'stages.pretrain.task' = 'third.more:B'\n")
    assert refusal(RecipeError, parse_recipe, {**table, "observers": ["first:Watcher"]}, load_catalog()) == (
        "stages.pretrain.task: 'second:A' is code outside the catalog;"
        f" observers[0]: 'first:Watcher' is code outside the catalog, from {tmp_path / 'first.py'};"
        " stages.pretrain.task: 'third.more:B' is code outside the catalog;"
        " if you trust it: --allow-code, in Python allow_code=True"
    )


def test_what_stands_in_no_known_place_is_refused_all_the_same(tmp_path: Path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=r"^stages\.pretrain\.optimizer\.main: 'no-identifier:Sgd' is code outside the catalog; if you "):
        load_recipe(tmp_path / "tiny.toml", ['stages.pretrain.optimizer={ main = "no-identifier:Sgd" }'])


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key and every element of a table."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def with_value(table: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    changed: Any = copy.deepcopy(table)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.slow
def test_no_key_of_a_recipe_reaches_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wicked.py").write_text(WATCHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path, catalog, tried = list(sys.path), load_catalog(), 0
    for name in ("quickstart", "rotnet_cifar10", "rotnet_depths"):
        file = ROOT / "recipes" / f"{name}.toml"
        for table in (tomllib.loads(file.read_text()), json.loads(json.dumps(dict(load_recipe(file).table)))):
            for place in places(table):
                for value in ("wicked:Watcher", {"name": "wicked:Watcher"}, ["wicked:Watcher"], {"main": {"name": "wicked:Watcher"}}):
                    tried += 1
                    with contextlib.suppress(SslkitError):
                        parse_recipe(with_value(table, place, value), catalog)
    assert tried > 1000
    assert "wicked" not in sys.modules
    assert not (tmp_path / "wicked.imported").exists()
    assert sys.path == path


def test_objects_handed_over_in_python_need_no_leave():
    class Mine(type(load_recipe(ROOT / "recipes" / "quickstart.toml").data)):
        pass

    catalog = load_catalog()
    mine = Catalog(catalog.plugins, (*catalog.offers, *Catalog.of(datasets={"mine": Mine}).offers))
    recipe = parse_recipe({**tomllib.loads(RECIPE), "data": "mine"}, mine)
    assert type(recipe.data) is Mine
    assert recipe.code.imported == {}
    assert recipe.code.plugins == catalog.plugins


def test_nothing_is_said_where_there_is_only_our_own_code():
    own = PluginInfo(name="rotnet", distribution="sslkit", version="1.0")
    off = PluginInfo(name="off", distribution="sslkit-off", version="1.0", disabled=True)
    assert RecipeCode((own, off)).lines() == []
    listed = {"name": "off", "distribution": "sslkit-off", "version": "1.0", "state": "disabled"}
    assert RecipeCode((own, off)).as_json()["plugins"][1] == listed


def test_what_is_not_ours_is_said():
    flips = PluginInfo(name="flips", distribution="sslkit-flips", version="2.3")
    bad = PluginInfo(name="bad", distribution="sslkit-bad", version="1.0", error="OSError: gone")
    code = RecipeCode((flips, bad), {"my.nets:Net": "/here/my/nets.py"})
    assert code.lines() == [
        "plugins: flips (sslkit-flips 2.3)",
        "broken plugins: bad (sslkit-bad 1.0): OSError: gone",
        "imported: my.nets:Net from /here/my/nets.py",
    ]
    assert code.as_json()["plugins"][1]["error"] == "OSError: gone"


def sslkit(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The console script, which leaves the current folder off sys.path, as ``python -m`` would not."""
    code = "import sys; sys.path.remove(''); from sslkit.cli.commands import main; main()"
    paths = os.pathsep.join([environment.pop("site", ""), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_strangers_run_imports_nothing_until_it_is_reported_to(tmp_path: Path):
    (tmp_path / "stranger.py").write_text(WATCHER)
    (tmp_path / "theirs" / "pretrain").mkdir(parents=True)
    (tmp_path / "theirs" / "pretrain" / "artifact.json").write_text("{}")
    (tmp_path / "theirs" / "recipe.toml").write_text(RECIPE + "[[observers]]\nname = 'stranger:Watcher'\n")
    refused = sslkit(tmp_path, "run", "theirs/recipe.toml", "--device", "cpu")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: observers[0].name: 'stranger:Watcher' is code outside the catalog, from ")
    assert refused.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"stranger.py", "theirs"}

    (tmp_path / "tiny.toml").write_text((tmp_path / "theirs" / "recipe.toml").read_text())
    for command in (("run", "theirs/recipe.toml", "--device", "cpu", "--allow-code"), ("check", "tiny.toml")):
        run = sslkit(tmp_path, *command)
        assert run.returncode == 0, run.stderr
        assert run.stderr.splitlines()[0] == f"imported: stranger:Watcher from {tmp_path / 'stranger.py'}"
        (tmp_path / "stranger.imported").unlink()


@pytest.mark.parametrize("place", ["recipe.toml", "variants/a.toml", "link.toml"])
def test_what_lies_in_a_run(tmp_path: Path, place: str):
    run, path = tmp_path / "run", tmp_path / "run" / place
    path.parent.mkdir(parents=True)
    path.write_text(RECIPE)
    assert not is_in_run(path)
    (run / "results.json").write_text("{}")
    assert is_in_run(path)
    (tmp_path / "mine.toml").symlink_to(path)
    assert is_in_run(tmp_path / "mine.toml")
    assert not is_in_run(tmp_path / "other.toml")


def test_a_sweep_that_has_no_results_yet_is_a_run(tmp_path: Path):
    for path in ("recipe.toml", "variants/a.toml", "a/pretrain/artifact.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(RECIPE)
    assert is_in_run(tmp_path / "recipe.toml")


@pytest.mark.slow
def test_a_run_says_and_records_which_plugins_it_loaded(site: Site):
    site.install("flips", GOOD, version="2.3")
    site.install("bad", "raise OSError('first\\x1b[31m\\nsecond')\n")
    site.install("off", "raise AssertionError('imported')\n")
    folder = site.folder / "work"
    folder.mkdir()
    (folder / "tiny.toml").write_text(RECIPE)
    lists = {"SSLKIT_DISABLE_PLUGINS": "off,offf", "site": str(site.folder)}
    run = sslkit(folder, "run", "tiny.toml", "--device", "cpu", **lists)
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[:3] == [
        "plugins: flips (sslkit-flips 2.3)",
        "broken plugins: bad (sslkit-bad 1.0): OSError: first\\x1b[31m second",
        "  note: SSLKIT_DISABLE_PLUGINS names 'offf', which no installed plugin has; did you mean 'off'?",
    ]
    artifact = json.loads(next((folder / "runs" / "small").glob("*/artifact.json")).read_text())
    code = artifact["environments"][0]["code"]
    states = {plugin["name"]: (plugin["distribution"], plugin["version"], plugin["state"]) for plugin in code["plugins"]}
    assert states["flips"] == ("sslkit-flips", "2.3", "loaded")
    assert states["bad"] == ("sslkit-bad", "1.0", "broken")
    assert states["off"] == ("sslkit-off", "1.0", "disabled")
    assert states["rotnet"][0] == "sslkit"
    assert len(code["notes"]) == 1
