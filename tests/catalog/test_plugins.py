import os
import re
import subprocess
import sys

import pytest

from sslkit.catalog.catalog import KINDS, Catalog, PluginInfo
from sslkit.catalog.discovery import Hooks, load_catalog
from sslkit.contract.errors import PluginError
from sslkit.contract.objective import PretextTask
from tests.catalog.plugin_site import GOOD, HEAD, Site, Task
from tests.recipes import refusal

MARKED = "from pathlib import Path\nPath(__file__).with_suffix('.imported').touch()\n" + GOOD
"""A plugin that leaves a file beside itself when it is imported."""

LOST = GOOD.replace("'good'", "'lost'")


def enabled(catalog: Catalog) -> dict[str, PluginInfo]:
    return {plugin.name: plugin for plugin in catalog.plugins if not plugin.disabled}


def broken(site: Site, name: str) -> str:
    """Load the catalog with a plugin that works beside it, and return the one-line reason why ``name`` does not."""
    site.install("zgood", GOOD)
    site.install("agood", GOOD.replace("'good'", "'also_good'"))
    catalog = load_catalog()
    assert catalog.names("pretext_tasks") == ("also_good", "good")
    info = enabled(catalog)[name]
    assert info.offers == {}
    assert info.error is not None
    assert "\n" not in info.error
    return info.error


def test_every_kind_is_a_documented_hook_that_takes_nothing_and_promises_its_classes():
    specs = {name: spec for name, spec in vars(Hooks).items() if hasattr(spec, "sslkit_spec")}
    assert specs.keys() == KINDS.keys()
    assert all(spec.__doc__ and spec.__code__.co_argcount == 1 for spec in specs.values())
    assert all(specs[name].__annotations__["return"] == dict[str, type[kind.cls]] for name, kind in KINDS.items())


def test_a_plugin_is_loaded_and_attributed(site: Site):
    site.install("flips", GOOD, version="2.3")
    catalog = load_catalog()
    info = enabled(catalog)["flips"]
    assert info == PluginInfo(
        name="flips", distribution="sslkit-flips", version="2.3", offers={"pretext_tasks": ("good",)}, package="site_flips"
    )
    assert str(info) == "flips (sslkit-flips 2.3)"
    cls = catalog.find("pretext_tasks", "good")
    assert issubclass(cls, PretextTask)
    assert catalog.owner(cls) == info
    assert catalog.owner(Task) is None
    assert catalog.spec_of(cls) == "good"


def test_a_plugin_may_be_an_object_and_name_its_functions_freely(site: Site):
    source = HEAD + (
        "class Plugin:\n"
        "    @hookimpl(specname='pretext_tasks')\n    def mine(self):\n        return {'a': Task}\n"
        "    @hookimpl(specname='pretext_tasks')\n    def more(self):\n        return {'b': Task}\n"
        "    @hookimpl\n    def schedules(self):\n        return {}\n"
        "plugin = Plugin()\n"
    )
    site.install("object", source, entries={"object": "site_object:plugin"})
    assert enabled(load_catalog())["object"].offers == {"pretext_tasks": ("a", "b")}


def test_each_load_is_fresh_and_leaves_the_path_alone(site: Site):
    site.install("flips", GOOD)
    path = list(sys.path)
    assert load_catalog() == load_catalog()
    assert sys.path == path


BROKEN = {
    "import": ("import package_that_does_not_exist\n", r"ModuleNotFoundError: No module named 'package_that_does_not_exist'"),
    "syntax": ("def broken(:\n", r"SyntaxError: .*"),
    "exit": ("raise SystemExit(3)\n", r"SystemExit: 3"),
    "no module": ("", r"ModuleNotFoundError: No module named 'site_bad'"),
    "misspelt hook": (
        GOOD.replace("def pretext_tasks", "def pretext_taks"),
        r"unknown hook 'pretext_taks'; allowed: pretext_tasks, backbones, .*; did you mean 'pretext_tasks'\?",
    ),
    "misspelt hook beside a good one": (LOST + "@hookimpl\ndef shedules():\n    return {}\n", r"unknown hook 'shedules'.*"),
    "nothing marked": (
        LOST.replace("@hookimpl\n", ""),
        r"the plugin has no hook: nothing in it is marked with @hookimpl; allowed: pretext_tasks, .*",
    ),
    # The good hook comes first in the alphabet, so pluggy up to 1.6 has registered it when it refuses the bad one.
    "refused by pluggy": (LOST + "@hookimpl\ndef schedules(epoch):\n    return {}\n", r"PluginValidationError: .*epoch.*"),
    "argument with a default": (LOST.replace("pretext_tasks()", "pretext_tasks(size=32)"), r".*size.*"),
    "wrapper": (
        LOST.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("return {'lost': Task}", "return (yield)"),
        r"hook pretext_tasks must not be a wrapper; write @hookimpl without arguments",
    ),
    "raising hook": (
        LOST.replace("return {'lost': Task}", "raise RuntimeError('first line\\nsecond line')"),
        r"RuntimeError: first line second line",
    ),
    "raising hook beside a good one": (LOST + "@hookimpl\ndef schedules():\n    raise KeyError\n", r"KeyError"),
    "one name twice": (
        LOST + "@hookimpl(specname='pretext_tasks')\ndef more():\n    return {'lost': Task}\n",
        r"pretext task 'lost' is offered twice by the same plugin",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_cannot_be_used_takes_no_other_down(site: Site, case: str):
    source, reason = BROKEN[case]
    site.install("bad", source)
    assert re.fullmatch(reason, broken(site, "bad"))


def test_an_entry_point_cannot_be_read(site: Site):
    site.install("bad", entries={"bad": "not an address"})
    assert broken(site, "bad")


def test_metadata_is_damaged(site: Site):
    site.install("odd", GOOD.replace("'good'", "'odd'"))
    (site.folder / "sslkit_odd-1.0.dist-info" / "METADATA").unlink()
    catalog = load_catalog()
    assert catalog.names("pretext_tasks") == ("odd",)
    assert enabled(catalog)["odd"].distribution in ("unknown distribution", "sslkit-odd", "sslkit_odd")


def test_two_entry_points_of_one_name_are_both_loaded(site: Site):
    site.install("first", GOOD, entries={"same": "site_first"})
    site.install("second", GOOD.replace("'good'", "'better'"), entries={"same": "site_second"})
    catalog = load_catalog()
    assert catalog.names("pretext_tasks") == ("better", "good")
    assert [plugin.distribution for plugin in catalog.plugins if plugin.name == "same"] == ["sslkit-first", "sslkit-second"]


def test_a_hook_of_a_later_version_may_be_optional(site: Site):
    site.install("new", GOOD + "@hookimpl(optionalhook=True)\ndef tokenizers():\n    return {'x': 1}\n")
    assert enabled(load_catalog())["new"].offers == {"pretext_tasks": ("good",)}


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        ("None", "hook pretext_tasks must return a dict of names and classes; found None"),
        ("[Task]", "hook pretext_tasks must return a dict of names and classes; found [<class 'site_bad.Task'>]"),
        ("{1: Task}", "a pretext task has a name that cannot be used; found 1; allowed: letters, digits, _ and -"),
        ("{'a b': Task}", "a pretext task has a name that cannot be used; found 'a b'; allowed: letters, digits, _ and -"),
        ("{'a:b': Task}", "a pretext task has a name that cannot be used; found 'a:b'; allowed: letters, digits, _ and -"),
        ("{'rôt': Task}", "a pretext task has a name that cannot be used; found 'rôt'; allowed: letters, digits, _ and -"),
        ("{'': Task}", "a pretext task has a name that cannot be used; found ''; allowed: letters, digits, _ and -"),
        ("{'a\\n': Task}", "a pretext task has a name that cannot be used; found 'a\\n'; allowed: letters, digits, _ and -"),
        ("{'random': Task}", "a pretext task has a reserved name; found 'random'; choose another"),
        ("{'name': Task}", "a pretext task has a reserved name; found 'name'; choose another"),
        ("{'x': int}", "pretext task 'x' must be a subclass of PretextTask; found <class 'int'>"),
        ("{'x': Schedule}", "pretext task 'x' must be a subclass of PretextTask; found <class 'sslkit.contract.training.Schedule'>"),
        (
            "{'x': PretextTask}",
            "pretext task 'x' is abstract; found <class 'sslkit.contract.objective.PretextTask'>; it lacks build_objective",
        ),
        ("{'x': 'Task'}", "pretext task 'x' must be a class; found 'Task'; a subclass of PretextTask, not an object"),
    ],
)
def test_what_a_hook_returns_is_checked(site: Site, offered: str, reason: str):
    site.install("bad", HEAD + f"@hookimpl\ndef pretext_tasks():\n    return {offered}\n")
    assert broken(site, "bad") == reason


def test_two_plugins_offer_one_name(site: Site):
    more = "@hookimpl\ndef schedules():\n    return {'flat': Flat}\nclass Flat(Schedule):\n    def scale(self, epoch, num_epochs):\n        return 1.0\n"
    site.install("one", GOOD + more, version="1.1")
    site.install("two", GOOD, version="2.2")
    catalog = load_catalog()
    assert [plugin.error for plugin in enabled(catalog).values()] == [None, None]
    assert catalog.names("pretext_tasks") == ("good",)
    flat = catalog.find("schedules", "flat")  # a name that does not collide keeps working
    assert catalog.spec_of(flat) == "flat"
    assert refusal(PluginError, catalog.find, "pretext_tasks", "good") == (
        "pretext task 'good' is offered by one (sslkit-one 1.1) and by two (sslkit-two 2.2); "
        "write 'site_one:Task' or 'site_two:Task', or switch a plugin off with SSLKIT_DISABLE_PLUGINS"
    )
    chosen = catalog.find("pretext_tasks", "site_two:Task")
    assert catalog.spec_of(chosen) == "site_two:Task"  # not 'good', which could not be found again
    owner = catalog.owner(chosen)
    assert owner is not None
    assert owner.distribution == "sslkit-two"


def test_disabled_plugins_are_listed_but_not_imported(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("one", "raise AssertionError('imported')\n")
    site.install("two", "raise AssertionError('imported')\n")
    site.install("three", GOOD)
    monkeypatch.setenv("SSLKIT_STRICT_PLUGINS", "1")
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", f"{os.environ['SSLKIT_DISABLE_PLUGINS']}, one ,two")
    catalog = load_catalog()
    assert list(enabled(catalog)) == ["three"]
    off = {plugin.name: plugin for plugin in catalog.plugins if plugin.disabled}
    assert off["one"] == PluginInfo(name="one", distribution="sslkit-one", version="1.0", disabled=True)
    with pytest.raises(PluginError, match=r"disabled plugin: one \(sslkit-one 1\.0\)"):
        catalog.find("pretext_tasks", "lost")


def test_strict_raises_what_the_plugin_raised(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("bad", "raise ZeroDivisionError('the original')\n")
    monkeypatch.setenv("SSLKIT_STRICT_PLUGINS", "1")
    with pytest.raises(ZeroDivisionError, match="the original") as caught:
        load_catalog()
    assert caught.value.__notes__ == ["raised by the plugin 'bad' of sslkit-bad 1.0"]


@pytest.mark.parametrize("value", ["", "0"])
def test_strict_can_be_switched_off(site: Site, monkeypatch: pytest.MonkeyPatch, value: str):
    site.install("bad", "raise ZeroDivisionError\n")
    monkeypatch.setenv("SSLKIT_STRICT_PLUGINS", value)
    assert broken(site, "bad") == "ZeroDivisionError"


def test_a_broken_plugin_is_mentioned_only_where_a_name_is_unknown(site: Site):
    site.install("bad", "import package_that_does_not_exist\n")
    site.install("good", GOOD)
    catalog = load_catalog()
    assert catalog.find("pretext_tasks", "good")
    message = refusal(PluginError, catalog.find, "pretext_tasks", "goof")
    assert message.startswith("no pretext task is called 'goof'; allowed: good; did you mean 'good'?; ")
    assert message.endswith("broken plugin: bad (sslkit-bad 1.0): ModuleNotFoundError: No module named 'package_that_does_not_exist'")


def allow(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SSLKIT_ALLOW_PLUGINS", value)


def imported(site: Site) -> set[str]:
    return {path.stem.removeprefix("site_") for path in site.folder.glob("*.imported")}


def test_only_allowed_plugins_are_imported(site: Site, monkeypatch: pytest.MonkeyPatch):
    for name in ("one", "two", "three"):
        site.install(name, MARKED.replace("'good'", f"'{name}'"))
    allow(monkeypatch, " two, sslkit-three:three")
    catalog = load_catalog()
    assert imported(site) == {"two", "three"}
    assert catalog.names("pretext_tasks") == ("three", "two")
    assert {name: plugin.state for name, plugin in enabled(catalog).items()} == {"one": "not allowed", "two": "loaded", "three": "loaded"}
    assert catalog.notes == ()
    with pytest.raises(PluginError, match=r"; plugin that is not on SSLKIT_ALLOW_PLUGINS: one \(sslkit-one 1\.0\)$"):
        catalog.find("pretext_tasks", "lost")


def test_a_distribution_in_the_list_tells_two_plugins_of_one_name_apart(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("first", MARKED, entries={"same": "site_first"})
    site.install("second", MARKED.replace("'good'", "'better'"), entries={"same": "site_second"})
    allow(monkeypatch, "SSLkit_Second:same")
    assert load_catalog().names("pretext_tasks") == ("better",)
    assert imported(site) == {"second"}
    allow(monkeypatch, "same")
    assert load_catalog().names("pretext_tasks") == ("better", "good")
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", f"{os.environ['SSLKIT_DISABLE_PLUGINS']},sslkit-second:same")
    assert load_catalog().names("pretext_tasks") == ("good",)


def test_names_that_nothing_installed_has_are_noted(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("flips", GOOD)
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", f"{os.environ['SSLKIT_DISABLE_PLUGINS']},flisp")
    allow(monkeypatch, "flips,nothing-like-it,sslkit-flops:flips")
    assert load_catalog().notes == (
        "SSLKIT_DISABLE_PLUGINS names 'flisp', which no installed plugin has; did you mean 'flips'?",
        "SSLKIT_ALLOW_PLUGINS names 'nothing-like-it', which no installed plugin has",
        "SSLKIT_ALLOW_PLUGINS names 'sslkit-flops:flips', which no installed plugin has; did you mean 'sslkit-flips:flips'?",
    )


def test_strict_refuses_names_that_nothing_installed_has_before_it_imports_anything(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("flips", MARKED)
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", f"{os.environ['SSLKIT_DISABLE_PLUGINS']},flisp")
    monkeypatch.setenv("SSLKIT_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match=r"^SSLKIT_DISABLE_PLUGINS names 'flisp', which no installed plugin has; did you mean 'flips'\?$"):
        load_catalog()
    assert imported(site) == set()


@pytest.mark.slow
def test_environment_variables_work_in_a_process_of_its_own(site: Site):
    # As under torchrun, whose workers inherit the environment.
    site.install("flips", GOOD)
    site.install("bad", "raise RuntimeError('loaded')\n")
    code = "from sslkit.catalog.discovery import load_catalog; print([p.name for p in load_catalog().plugins if p.offers])"
    environment = {
        "PYTHONPATH": str(site.folder),
        "SSLKIT_ALLOW_PLUGINS": "flips",
        "SSLKIT_DISABLE_PLUGINS": "builtin,rotnet,tiff",
        "SSLKIT_STRICT_PLUGINS": "1",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['flips']"


def states() -> dict[str, str]:
    return {plugin.name: plugin.state for plugin in load_catalog().plugins}


@pytest.mark.parametrize("item", ["flips", " flips ", "x,flips", "sslkit-flips:flips", "SSLKIT_flips:flips", "sslkit.flips:flips"])
def test_an_item_is_a_name_or_a_distribution_and_a_name(item: str, site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("flips", MARKED)
    allow(monkeypatch, item)
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", item)
    assert states()["flips"] == "disabled"
    assert imported(site) == set()
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", "")
    assert states()["flips"] == "loaded"


@pytest.mark.parametrize(
    "item", ["", ",", "flip", "Flips", "sslkit-flips", "sslkit-flips:", "sslkit-other:flips", "flips:sslkit-flips", "*"]
)
def test_nothing_else_is_meant(item: str, site: Site, monkeypatch: pytest.MonkeyPatch):
    site.install("flips", MARKED)
    allow(monkeypatch, item)
    monkeypatch.setenv("SSLKIT_DISABLE_PLUGINS", item)
    assert states() == {"builtin": "loaded", "flips": "not allowed", "rotnet": "loaded", "tiff": "loaded"}, (
        "sslkit's own are always allowed"
    )
    assert imported(site) == set()
    monkeypatch.delenv("SSLKIT_ALLOW_PLUGINS")
    assert states()["flips"] == "loaded"


def test_without_variables_everything_is_imported(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSLKIT_DISABLE_PLUGINS")
    site.install("flips", GOOD)
    assert states()["flips"] == "loaded"
    assert load_catalog().notes == ()
