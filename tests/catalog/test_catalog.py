import importlib
import sys
from pathlib import Path

import pytest

from sslkit.catalog.catalog import KINDS, Catalog
from sslkit.catalog.discovery import load_catalog
from sslkit.contract.errors import PluginError, SslkitError
from sslkit.contract.training import OptimizerFactory, Schedule
from tests.catalog.plugin_site import GOOD, HEAD, Site, Task
from tests.recipes import refusal


class OtherTask(Task):
    pass


class Flat(Schedule):
    def scale(self, epoch, num_epochs):
        return 1.0


def refused(catalog: Catalog, name: str, kind: str = "pretext_tasks") -> str:
    return refusal(PluginError, catalog.find, kind, name)


def test_one_name_may_be_used_for_two_kinds():
    catalog = Catalog.of(pretext_tasks={"x": Task}, schedules={"x": Flat})
    assert catalog.find("pretext_tasks", "x") is Task
    assert catalog.find("schedules", "x") is Flat


def test_an_unknown_name():
    catalog = Catalog.of(pretext_tasks={"rotnet": Task, "jigsaw": OtherTask}, schedules={"flat": Flat})
    assert refused(catalog, "rotnot") == "no pretext task is called 'rotnot'; allowed: jigsaw, rotnet; did you mean 'rotnet'?"
    with pytest.raises(PluginError, match=r"^no pretext task is called 'flat'; allowed: jigsaw, rotnet; 'flat' is a schedule$"):
        catalog.find("pretext_tasks", "flat")
    with pytest.raises(PluginError) as caught:
        catalog.find("optimizers", "mine.Sgd")
    assert str(caught.value) == (
        "no optimizer is called 'mine.Sgd'; allowed: none is installed; a class of your own is written 'package.module:Class'"
    )
    assert isinstance(caught.value, SslkitError)
    assert caught.value.exit_code == 2


def test_a_catalog_by_hand_is_checked():
    catalog = Catalog.of(pretext_tasks={"b": Task, "a": OtherTask})
    assert catalog.names("pretext_tasks") == ("a", "b")
    assert catalog.names("schedules") == ()
    assert catalog.plugins == ()
    assert catalog.owner(Task) is None
    assert (catalog.spec_of(Task), catalog.spec_of(OtherTask)) == ("b", "a")
    assert Catalog.of(pretext_tasks={"b": Task, "a": Task}).spec_of(Task) == "a"
    with pytest.raises(PluginError, match=r"'pretext_task' is not a kind of class; allowed: .*did you mean 'pretext_tasks'"):
        Catalog.of(pretext_task={"b": Task})
    with pytest.raises(PluginError, match="schedule 'b' must be a subclass of Schedule"):
        Catalog.of(schedules={"b": Task})


def test_a_class_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "nets_of_a_project.py").write_text(HEAD + "class Outer:\n    class Inner(Task):\n        pass\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    trusting = Catalog(allow_code=True)
    assert (
        refused(trusting, "nets_of_a_project:Task")
        == "'nets_of_a_project:Task' cannot be imported; it is neither installed nor in the current folder"
    )
    monkeypatch.chdir(folder)
    importlib.invalidate_caches()
    cls = trusting.find("pretext_tasks", "nets_of_a_project:Task")
    assert (cls.__module__, cls.__name__) == ("nets_of_a_project", "Task")
    assert Catalog().spec_of(cls) == "nets_of_a_project:Task"
    inner = trusting.find("pretext_tasks", "nets_of_a_project:Outer.Inner")
    assert Catalog().spec_of(inner) == "nets_of_a_project:Outer.Inner"
    assert sys.path.count(str(folder)) == 1


def test_what_is_imported_is_checked(site: Site):
    (site.folder / "site_nets.py").write_text(HEAD + "number = 3\n")
    (site.folder / "site_broken.py").write_text("import package_that_does_not_exist\n")

    def message(spec: str) -> str:
        return refused(Catalog(allow_code=True), spec, "schedules")

    assert message("site_nets:Task") == "'site_nets:Task' must be a subclass of Schedule; found <class 'site_nets.Task'>"
    assert message("site_nets:Shedule") == "'site_nets:Shedule' does not exist: site_nets has no 'Shedule'; did you mean 'Schedule'?"
    assert message("site_nets:Schedule").startswith("'site_nets:Schedule' is abstract; ")
    assert message("site_nets:number.real") == "'site_nets:number.real' must be a class; found 3; a subclass of Schedule, not an object"
    assert message("site_nets:") == "'site_nets:' does not exist: site_nets has no ''"
    assert message("site_nets.deep:Task") == ("'site_nets.deep:Task' cannot be imported; it is neither installed nor in the current folder")
    assert message("site_broken:X") == (
        "'site_broken:X' cannot be imported; ModuleNotFoundError: No module named 'package_that_does_not_exist'"
    )
    assert message(":X") == "':X' cannot be imported; ValueError: Empty module name"


def test_code_is_imported_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wicked.py").write_text("raise SystemExit('imported')")
    (tmp_path / "wicked_package").mkdir()
    (tmp_path / "wicked_package" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "loose").mkdir()
    monkeypatch.chdir(tmp_path)
    path, fix = list(sys.path), "if you trust it: --allow-code, in Python allow_code=True"
    for spec, source in {
        "wicked:Task": "wicked.py",
        "wicked_package.tasks:Task": "wicked_package/__init__.py",
        "loose.tasks:Task": "loose",
    }.items():
        assert refused(Catalog(), spec) == f"{spec!r} is code outside the catalog, from {tmp_path / source}; {fix}"
    for spec in ("nowhere:Task", ":Task", "a b:Task", "../wicked:Task", "a\0b:Task", ".wicked:Task"):
        assert refused(Catalog(), spec).startswith(f"{spec!r} is code outside the catalog; {fix}".replace("\\", "\\"))
    assert sys.path == path
    assert not {"wicked", "wicked_package", "loose"} & set(sys.modules)


def test_of_what_is_imported_already_the_file_is_known():
    assert f"is code outside the catalog, from {sys.modules['json'].__file__}; " in refused(Catalog(), "json.decoder:JSONDecoder")
    assert refused(Catalog(), "sys:flags").startswith("'sys:flags' is code outside the catalog; ")


def test_an_address_of_an_offered_class_imports_nothing(site: Site):
    site.install("flips", GOOD)
    catalog = load_catalog()
    assert catalog.find("pretext_tasks", "site_flips:Task") is catalog.find("pretext_tasks", "good")
    (site.folder / "site_flips.py").unlink()
    del sys.modules["site_flips"]
    assert catalog.find("pretext_tasks", "site_flips:Task") is catalog.find("pretext_tasks", "good")
    by_hand = Catalog.of(pretext_tasks={"mine": Task})
    assert by_hand.find("pretext_tasks", f"{Task.__module__}:Task") is Task
    assert "is code outside the catalog" in refused(by_hand, f"{__name__}:OtherTask")
    assert not by_hand.is_outside(f"{Task.__module__}:Task")
    with pytest.raises(PluginError, match="must be a subclass of Schedule"):
        by_hand.find("schedules", f"{Task.__module__}:Task")


def test_the_package_of_a_loaded_plugin_may_be_imported_from(site: Site):
    package = site.folder / "site_whole"
    package.mkdir()
    (package / "__init__.py").write_text(GOOD)
    (package / "more.py").write_text(HEAD)
    site.install("whole", entries={"whole": "site_whole"})
    catalog = load_catalog()
    assert catalog.find("pretext_tasks", "site_whole.more:Task").__module__ == "site_whole.more"
    assert catalog.is_outside("site_whole.more:Task")


def test_no_other_package_is_trusted_for_a_plugins_sake(site: Site):
    (site.folder / "site_shared").mkdir()  # without __init__.py: a namespace, in which others may have modules too
    (site.folder / "site_shared" / "plugin.py").write_text(GOOD)
    (site.folder / "site_shared" / "others.py").write_text("raise SystemExit('imported')")
    (site.folder / "site_shared_too.py").write_text("raise SystemExit('imported')")
    site.install("spaced", entries={"spaced": "site_shared.plugin"})
    site.install("bad", GOOD + "raise RuntimeError\n")
    catalog = load_catalog()
    assert catalog.names("pretext_tasks") == ("good",)
    for spec in ("site_shared.others:Task", "site_shared_too:Task", "site_bad:Task"):
        assert "is code outside the catalog" in refused(catalog, spec)


def test_of_sslkit_itself_only_offered_classes_have_an_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSLKIT_DISABLE_PLUGINS", raising=False)
    catalog = load_catalog()
    assert catalog.find("schedules", "sslkit.training.schedules:Constant") is catalog.find("schedules", "constant")
    assert "is code outside the catalog" in refused(catalog, "sslkit.testing.specimens:Task")


def test_a_class_is_reached_through_classes_alone(site: Site):
    (site.folder / "site_deep.py").write_text(HEAD + "import site_deeper\n")
    (site.folder / "site_deeper.py").write_text(HEAD)
    message = refused(Catalog(allow_code=True), "site_deep:site_deeper.Task")
    assert message.startswith("'site_deep:site_deeper.Task' must be a class; found <module 'site_deeper'")


def test_the_current_folder_is_reached_only_where_it_has_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "near_by.py").write_text(HEAD)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    trusting, before = Catalog(allow_code=True), list(sys.path)
    assert refused(trusting, "json.decoder:JSONDecoder")
    assert refused(trusting, "nowhere_at_all:Task")
    assert sys.path == before
    assert trusting.find("pretext_tasks", "near_by:Task")
    assert sys.path == [str(tmp_path), *before]
    del sys.modules["near_by"]


def test_kinds_read_well_in_messages():
    assert KINDS["optimizers"].one == "an optimizer"
    assert KINDS["schedules"].one == "a schedule"
    assert KINDS["optimizers"].cls is OptimizerFactory
